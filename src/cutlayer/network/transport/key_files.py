"""Reads and writes the files of a folder of keys; keys.py says which there are.

`authority.crt` may hold several certificates, the newest first: whatever one of them signed is
trusted. There are two while an authority is replaced (rotation.py).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cutlayer.errors import KeysError
from cutlayer.files import write_atomically
from cutlayer.network.transport.certificates import Pair

AUTHORITY = "authority"
SERVER = "server"
DEVICE = "device"
REVOKED = "revoked.crl"
ISSUED = "issued"
DEVICES = "devices"


def read(path: Path) -> bytes:
    """The content of a file of keys. Raises KeysError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeysError(
            f"keys: cannot read {path} ({error.strerror}): name a folder that cutlayer keys made"
        ) from None


def load_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file, at least one, in their order. Raises KeysError."""
    try:
        return x509.load_pem_x509_certificates(read(path))
    except ValueError:
        raise KeysError(f"keys: {path} is no certificate: restore it, or make it anew") from None


def load_certificate(path: Path) -> x509.Certificate:
    """The first certificate in a PEM file. Raises KeysError."""
    return load_certificates(path)[0]


def load_authorities(folder: Path) -> list[x509.Certificate]:
    """Whom the holder of a folder trusts, the newest authority first. Raises KeysError."""
    return load_certificates(folder / f"{AUTHORITY}.crt")


def load_pair(folder: Path, name: str) -> Pair:
    """NAME.key, and the certificate in NAME.crt that belongs to it. Raises KeysError."""
    certificates = load_certificates(folder / f"{name}.crt")
    path = folder / f"{name}.key"
    try:
        key = serialization.load_pem_private_key(read(path), password=None)
    except (ValueError, TypeError):
        raise KeysError(f"keys: {path} is no private key: restore it, or make it anew") from None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        for certificate in certificates:
            if key.public_key() == certificate.public_key():
                return Pair(key, certificate)
    raise KeysError(f"keys: {path} does not belong to {name}.crt: take both from one place")


def load_authority(folder: Path) -> Pair:
    """The authority that signs, which may have expired. Raises KeysError where it is not kept."""
    if not (folder / f"{AUTHORITY}.crt").exists():
        raise KeysError(
            f"keys: {folder} holds no authority: make one with cutlayer keys init {folder}"
        )
    if not (folder / f"{AUTHORITY}.key").exists():
        raise KeysError(
            f"keys: {folder} holds no {AUTHORITY}.key, which makes and revokes keys: run this "
            "where that file is kept, and copy the new files here"
        )
    return load_pair(folder, AUTHORITY)


def load_valid_authority(folder: Path) -> Pair:
    """The authority that signs. Raises KeysError where it is not kept, or has expired."""
    authority = load_authority(folder)
    until = authority.certificate.not_valid_after_utc
    if until <= datetime.now(UTC):
        raise KeysError(
            f"keys: the authority of {folder} expired on {until:%Y-%m-%d}: replace it with "
            "cutlayer keys rotate"
        )
    return authority


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written anew; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def write_pair(folder: Path, name: str, pair: Pair) -> None:
    """Write NAME.key, which its owner alone may read, and NAME.crt. Raises OSError."""
    write_atomically(folder / f"{name}.key", pair.key_pem, mode=0o600)
    write_atomically(folder / f"{name}.crt", pair.certificate_pem)


def write_authorities(folder: Path, authorities: Sequence[x509.Certificate]) -> None:
    """Write authority.crt: whom the holder of a folder trusts, the newest first. Raises OSError."""
    pem = serialization.Encoding.PEM
    found = b"".join(certificate.public_bytes(pem) for certificate in authorities)
    write_atomically(folder / f"{AUTHORITY}.crt", found)


def record(folder: Path, pair: Pair) -> None:
    """Keep a copy, before the certificate is written anywhere else, so that it can be revoked."""
    (folder / ISSUED).mkdir(mode=0o700, exist_ok=True)
    name = f"{pair.certificate.serial_number:x}.crt"
    write_atomically(folder / ISSUED / name, pair.certificate_pem)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell an OSError of the block as a KeysError."""
    try:
        yield
    except OSError as error:
        raise KeysError(
            f"keys: cannot write in {folder} ({error.strerror}): name another folder"
        ) from None
