"""Identities: one side's key and certificate, read from its files and again when they change."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from cutlayer.errors import KeysError
from cutlayer.network.transport.certificates import Pair, device_name
from cutlayer.network.transport.key_files import (
    AUTHORITY,
    DEVICE,
    SERVER,
    load_authorities,
    load_pair,
    read,
    stamp,
)
from cutlayer.network.transport.peers import Revocations


class Renewal:
    """Reads the files of an identity again when they change, so that it is renewed without a stop.

    load: makes the identity from its files, `paths`, of which the last holds the authorities. tell:
    called with one sentence when the new files are used from then on, or with why they are not.
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
            before = self._stamps
            self._stamps = self._look()  # first: what is written meanwhile is read the next time
            same = before[:-1] == self._stamps[:-1]  # the last is the list of authorities
            try:
                self._found = self._load()
            except KeysError as error:
                self._tell(f"{error}; until then the certificate of before is used")
            else:
                until = f"certificate {self._paths[0]}, valid until {self._found.expires:%Y-%m-%d}"
                self._tell(f"keys: took the new {self._paths[-1] if same else until}")
            return self._found

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [stamp(path) for path in self._paths]


@dataclass(frozen=True)
class Identity:
    """One side's key and certificate (PEM), and the authorities (PEM) of which one must have signed
    the other side's certificate.

    key, certificate: of this side, as PEM. authority: certificates that may have signed the other
    side's, as PEM.
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

    folder: of the server's key and certificates, as `cutlayer keys` makes it.
    tell: see Renewal; a certificate that is renewed in the folder is taken at the next connection.
    """

    known = Revocations(folder, tell)

    def load() -> Identity:
        pem, pair = _load(folder, SERVER)
        known.refresh()
        return Identity(pair.key_pem, pair.certificate_pem, pem, revocations=known)

    renewal = Renewal(load, _files(folder, SERVER), tell)  # first: it misses no change
    return replace(load(), renewal=renewal)


def load_device_identity(folder: Path, tell: Callable[[str], None] = lambda line: None) -> Identity:
    """A device's identity from its folder below devices/. Raises KeysError.

    folder: of the device's own key and certificates.
    tell: see Renewal; a certificate that is renewed in the folder is taken at the next connection.
    """

    def load() -> Identity:
        pem, pair = _load(folder, DEVICE)
        name = device_name(pair.certificate)
        return Identity(pair.key_pem, pair.certificate_pem, pem, name=name)

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


def _files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.crt", folder / f"{name}.key", folder / f"{AUTHORITY}.crt"]


def _load(folder: Path, name: str) -> tuple[bytes, Pair]:
    """The authorities that one side trusts (PEM), and its own key and certificate."""
    path = folder / f"{name}.crt"
    if not path.exists():
        other = DEVICE if name == SERVER else SERVER
        hint = f"; it is a {other}'s" if (folder / f"{other}.crt").exists() else ""
        raise KeysError(
            f"keys: {folder} holds no {name}.crt{hint}: make it with cutlayer keys {name} and "
            "name its folder"
        )
    authorities = load_authorities(folder)
    pair = load_pair(folder, name)
    if not any(_signed(authority, pair.certificate) for authority in authorities):
        raise KeysError(
            f"keys: {path} was not signed by the authority.crt beside it: take both from one fleet"
        )
    until = pair.certificate.not_valid_after_utc
    if until <= datetime.now(UTC):
        raise KeysError(
            f"keys: {path} expired on {until:%Y-%m-%d}: renew it with cutlayer keys renew"
        )
    return read(folder / f"{AUTHORITY}.crt"), pair


def _signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # errors of the signature and of the issuer have no common base
        return False
    return True
