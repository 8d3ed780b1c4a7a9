"""Identities: one side's key and certificate, and the checks of the other side's certificate."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from cutlayer.errors import KeysError, NetworkError, RefusedError
from cutlayer.network.transport.certificates import device_name, read_revocations
from cutlayer.network.transport.keys import (
    AUTHORITY,
    DEVICE,
    REVOKED,
    SERVER,
    list_issued,
    load_certificate,
    load_pair,
    read,
)


@dataclass(frozen=True)
class Peer:
    """A device as its certificate names it; without certificates, the name that it says itself."""

    name: str
    serial: int | None = None
    expires: datetime | None = None


class Revocations:
    """The revocation list of a folder, read again whenever the file changes.

    With a list that is missing, damaged or signed by another authority, every device is refused
    (KeysError).
    """

    def __init__(self, path: Path, authority: x509.Certificate) -> None:
        self._path = path
        self._authority = authority
        self._stamp: tuple[int, int, int] | None = None
        self._revoked: Mapping[int, datetime] = {}
        self._refresh()

    def check(self, peer: Peer) -> None:
        """Raise RefusedError when a peer's certificate was revoked, NetworkError when it expired.

        Whoever has an expired one may come again: it may have been renewed by then.
        """
        self._refresh()
        if peer.serial in self._revoked:
            raise RefusedError(
                f"certificate: the one of device {peer.name} was revoked: make a new one with "
                "cutlayer keys device"
            )
        if peer.expires is not None and peer.expires <= datetime.now(UTC):
            raise NetworkError(
                f"certificate: that of device {peer.name} expired on {peer.expires:%Y-%m-%d}: "
                f"renew it with cutlayer keys renew {peer.name} and copy its folder to the device"
            )

    def names(self) -> set[str]:
        """The devices whose certificates were all revoked, by the copies beside the list."""
        try:
            known = list_issued(self._path.parent)
        except (KeysError, OSError):
            return set()  # without copies of certificates it cannot know whose were revoked
        good = {one.device for one in known if one.revoked is None}
        return {one.device for one in known if one.device is not None} - good

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp is None or stamp != self._stamp:
            self._revoked = read_revocations(read(self._path), self._authority)
            self._stamp = stamp


class Renewal:
    """Reads the files of an identity again when they change, so that it is renewed without a stop.

    load: makes the identity from its files. tell: called with one sentence when the new files are
    used from then on, or with why they are not.
    """

    def __init__(
        self, load: Callable[[], "Identity"], paths: Sequence[Path], tell: Callable[[str], None]
    ) -> None:
        self._load, self._paths, self._tell = load, paths, tell
        self._lock = threading.Lock()  # a server's handshakes come from threads of gRPC
        self._stamps = self._look()
        self._found: Identity | None = None

    def newest(self) -> "Identity | None":
        """What the files hold; None as long as they are those that the identity was loaded from."""
        with self._lock:
            if self._look() == self._stamps:
                return self._found
            self._stamps = self._look()  # first: what is written meanwhile is read the next time
            try:
                self._found = self._load()
            except KeysError as error:
                self._tell(f"{error}; until then the certificate of before is used")
            else:
                self._tell(
                    f"keys: took the new certificate {self._paths[0]}, valid until "
                    f"{self._found.expires:%Y-%m-%d}"
                )
            return self._found

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._paths]


@dataclass(frozen=True)
class Identity:
    """One side's key and certificate (PEM), and the authority (PEM) that must have signed the other
    side's certificate.

    name: a device's name; None for the server, which alone has `revocations`. renewal: follows the
    files that it was loaded from; None: it stays as it is.
    """

    key: bytes
    certificate: bytes
    authority: bytes
    name: str | None = None
    revocations: Revocations | None = None
    renewal: Renewal | None = field(default=None, compare=False, repr=False)

    @property
    def current(self) -> "Identity":
        """Itself, or what its files hold now: for a connection that begins."""
        return (self.renewal and self.renewal.newest()) or self

    @property
    def expires(self) -> datetime:
        """When its certificate ends, in UTC."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


def load_server_identity(folder: Path, tell: Callable[[str], None] = lambda line: None) -> Identity:
    """The edge server's identity from the folder of `cutlayer keys`. Raises KeysError.

    tell: see Renewal; a certificate that is renewed in the folder is taken at the next connection.
    """

    def load() -> Identity:
        authority, pem, pair = _load(folder, SERVER)
        revocations = Revocations(folder / REVOKED, authority)
        return Identity(pair[0], pair[1], pem, revocations=revocations)

    renewal = Renewal(load, _files(folder, SERVER), tell)  # first: it misses no change
    return replace(load(), renewal=renewal)


def load_device_identity(folder: Path, tell: Callable[[str], None] = lambda line: None) -> Identity:
    """A device's identity from its folder below devices/. Raises KeysError.

    tell: see Renewal; a certificate that is renewed in the folder is taken at the next connection.
    """

    def load() -> Identity:
        _, pem, pair = _load(folder, DEVICE)
        name = device_name(x509.load_pem_x509_certificate(pair[1]))
        return Identity(pair[0], pair[1], pem, name=name)

    def load_again() -> Identity:
        found = load()
        if found.name != first.name:
            raise KeysError(
                f"keys: {folder} names device {found.name} now, and this one runs as {first.name}: "
                "restore its certificate, or start the device anew"
            )
        return found

    renewal = Renewal(load_again, _files(folder, DEVICE), tell)  # first: it misses no change
    first = load()
    return replace(first, renewal=renewal)


def peer_of(properties: Mapping[str, Iterable[bytes]]) -> Peer:
    """The device behind a TLS connection, from gRPC's auth context.

    The handshake has already checked that our authority signed the certificate and that it is a
    client's. Raises RefusedError unless TLS 1.3 is used, KeysError if no device is named.
    """
    version = b"".join(properties.get("ssl_tls_version", ()))
    if version != b"TLSv1.3":
        raise RefusedError(
            f"connection: TLS 1.3 is needed, not {version.decode() or 'an unknown version'}: "
            "install cutlayer's own version of grpcio"
        )
    certificate = x509.load_pem_x509_certificate(b"".join(properties.get("x509_pem_cert", ())))
    return Peer(
        device_name(certificate), certificate.serial_number, certificate.not_valid_after_utc
    )


def _files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.crt", folder / f"{name}.key", folder / f"{AUTHORITY}.crt"]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written anew; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _load(folder: Path, name: str) -> tuple[x509.Certificate, bytes, tuple[bytes, bytes]]:
    path = folder / f"{name}.crt"
    if not path.exists():
        other = DEVICE if name == SERVER else SERVER
        hint = f"; it is a {other}'s" if (folder / f"{other}.crt").exists() else ""
        raise KeysError(
            f"keys: {folder} holds no {name}.crt{hint}: make it with cutlayer keys {name} and "
            "name its folder"
        )
    authority = load_certificate(folder / f"{AUTHORITY}.crt")
    pair = load_pair(folder, name)
    try:
        pair.certificate.verify_directly_issued_by(authority)
    except Exception:  # errors of the signature and of the issuer have no common base
        raise KeysError(
            f"keys: {path} was not signed by the authority.crt beside it: take both from one fleet"
        ) from None
    until = pair.certificate.not_valid_after_utc
    if until <= datetime.now(UTC):
        raise KeysError(
            f"keys: {path} expired on {until:%Y-%m-%d}: renew it with cutlayer keys renew"
        )
    return authority, read(folder / f"{AUTHORITY}.crt"), (pair.key_pem, pair.certificate_pem)
