"""Identities: one side's key and certificate, and who the other side of a connection is."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from cutlayer.errors import KeysError, RefusedError
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
    """A device as its certificate names it; without certificates only a name it gave itself."""

    name: str
    serial: int | None = None
    expires: datetime | None = None


class Revocations:
    """The revocation list of a folder, read again whenever the file changes.

    A list that is missing, damaged or signed by another authority lets nobody in (KeysError).
    """

    def __init__(self, path: Path, authority: x509.Certificate) -> None:
        self._path = path
        self._authority = authority
        self._stamp: tuple[int, int, int] | None = None
        self._revoked: Mapping[int, datetime] = {}
        self._refresh()

    def check(self, peer: Peer) -> None:
        """Raise RefusedError when a peer's certificate was revoked or has expired."""
        self._refresh()
        if peer.serial in self._revoked:
            raise RefusedError(
                f"certificate: that of device {peer.name} was revoked: have a new one made with "
                "cutlayer keys device"
            )
        if peer.expires is not None and peer.expires <= datetime.now(UTC):
            raise RefusedError(
                f"certificate: that of device {peer.name} expired on {peer.expires:%Y-%m-%d}: "
                "have a new one made with cutlayer keys device"
            )

    def names(self) -> set[str]:
        """The devices all of whose certificates were revoked, by those that lie beside the list."""
        try:
            known = list_issued(self._path.parent)
        except (KeysError, OSError):
            return set()  # the server has no copies: it cannot tell whose the revoked ones are
        good = {one.device for one in known if one.revoked is None}
        return {one.device for one in known if one.device is not None} - good

    def _refresh(self) -> None:
        try:
            found = os.stat(self._path)
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            stamp = None
        if stamp is None or stamp != self._stamp:
            self._revoked = read_revocations(read(self._path), self._authority)
            self._stamp = stamp


@dataclass(frozen=True)
class Identity:
    """One side's key and certificate (PEM), and the authority (PEM) that the other side's needs.

    name: a device's name; None for the server, which alone has `revocations`.
    """

    key: bytes
    certificate: bytes
    authority: bytes
    name: str | None = None
    revocations: Revocations | None = None


def load_server_identity(folder: Path) -> Identity:
    """The edge server's identity from the folder of `cutlayer keys`. Raises KeysError."""
    authority, pem, pair = _load(folder, SERVER)
    revocations = Revocations(folder / REVOKED, authority)
    return Identity(pair[0], pair[1], pem, revocations=revocations)


def load_device_identity(folder: Path) -> Identity:
    """A device's identity from its folder below devices/. Raises KeysError."""
    _, pem, pair = _load(folder, DEVICE)
    name = device_name(x509.load_pem_x509_certificate(pair[1]))
    return Identity(pair[0], pair[1], pem, name=name)


def peer_of(properties: Mapping[str, Iterable[bytes]]) -> Peer:
    """The device behind a TLS connection, from what gRPC knows of it (its auth context).

    The handshake has shown that our authority signed the certificate and that it is a client's.
    Raises RefusedError unless TLS 1.3 was agreed on, KeysError unless a device is named.
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
    except Exception:  # the signature's error has no common base with a wrong issuer's
        raise KeysError(
            f"keys: {path} was not signed by the authority.crt beside it: take both from one fleet"
        ) from None
    until = pair.certificate.not_valid_after_utc
    if until <= datetime.now(UTC):
        raise KeysError(
            f"keys: {path} expired on {until:%Y-%m-%d}: have a new one made with cutlayer keys "
            f"{name}"
        )
    return authority, read(folder / f"{AUTHORITY}.crt"), (pair.key_pem, pair.certificate_pem)
