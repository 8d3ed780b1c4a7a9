"""The folder of a fleet's keys: an authority, the server's and each device's certificate.

    authority.crt, authority.key    sign certificates; the key is needed only to add and to revoke
    server.crt, server.key          of the edge server
    revoked.crl                     the signed list of revoked certificates, read by the server
    issued/SERIAL.crt               every certificate ever signed, so that it can be revoked
    devices/NAME/                   authority.crt, device.crt, device.key: what one device gets

Keys are readable by their owner only. Nothing that exists is written over but by `renew_server` and
`renew_device`, whose old certificates hold until they expire or are revoked.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cutlayer.errors import KeysError
from cutlayer.files import write_atomically
from cutlayer.network.transport import certificates as making
from cutlayer.network.transport.certificates import Pair

AUTHORITY = "authority"
SERVER = "server"
DEVICE = "device"
REVOKED = "revoked.crl"
_ISSUED = "issued"
_DEVICES = "devices"


@dataclass(frozen=True)
class Issued:
    """A certificate of the fleet. device: its name, or None for the server's."""

    device: str | None
    serial: int
    expires: datetime
    revoked: datetime | None

    @property
    def valid(self) -> bool:
        """Whether a server accepts it now."""
        return self.revoked is None and datetime.now(UTC) < self.expires


def init(folder: Path, days: int = making.AUTHORITY_DAYS) -> None:
    """Make the authority of a fleet in a new folder. Raises KeysError where there is one."""
    if (folder / f"{AUTHORITY}.crt").exists() or (folder / f"{AUTHORITY}.key").exists():
        raise KeysError(
            f"keys: {folder} holds an authority already: name another folder, or add devices "
            "with cutlayer keys device"
        )
    with _writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = making.make_authority(days)
        _write_pair(folder, AUTHORITY, authority)
        write_atomically(folder / REVOKED, making.make_revocations(authority, {}))


def add_server(folder: Path, hosts: Sequence[str], days: int = making.DAYS) -> Path:
    """Make the server's certificate for the names and addresses of `hosts`; returns its path."""
    authority = _authority(folder)
    path = folder / f"{SERVER}.crt"
    if path.exists():
        raise KeysError(
            f"keys: {path} exists: have it made anew with cutlayer keys renew, or for other names "
            f"remove it and {SERVER}.key first"
        )
    pair = making.make_server(authority, hosts, days)
    with _writing(folder):
        _record(folder, pair)
        _write_pair(folder, SERVER, pair)
    return path


def add_device(folder: Path, name: str, days: int = making.DAYS) -> Path:
    """Make a device's certificate; returns the folder to copy to the device.

    Raises KeysError when the name has a certificate that is neither revoked nor expired.
    """
    authority = _authority(folder)
    making.check_name(name)
    for known in list_issued(folder):
        if known.device == name and known.valid:
            raise KeysError(
                f"keys: device {name} has a certificate until {known.expires:%Y-%m-%d}: extend it "
                f"with cutlayer keys renew {name}, or for another machine revoke it first, with "
                f"cutlayer keys revoke {name}"
            )
    return _bundle(folder, authority, name, days)


def renew_server(folder: Path, days: int = making.DAYS) -> Path:
    """Make the server's certificate anew, for the same hosts; returns its path.

    A server that runs takes it at the next connection. Raises KeysError where there is none yet.
    """
    authority = _authority(folder)
    path = folder / f"{SERVER}.crt"
    pair = making.make_server(authority, making.server_hosts(load_certificate(path)), days)
    with _writing(folder):
        _record(folder, pair)
        _write_pair(folder, SERVER, pair)
    return path


def renew_device(folder: Path, name: str, days: int = making.DAYS) -> Path:
    """Make a device's certificate anew; returns the folder to copy over the device's.

    The old one holds until it expires. A device that runs takes the new one at its next
    connection. Raises KeysError where the device never had one, or all of its were revoked.
    """
    authority = _authority(folder)
    own = [known for known in list_issued(folder) if known.device == making.check_name(name)]
    if all(known.revoked for known in own):
        raise KeysError(
            f"keys: device {name} has no certificate that can be renewed: make one with cutlayer "
            f"keys device {name}"
        )
    return _bundle(folder, authority, name, days)


def revoke(folder: Path, name: str) -> int:
    """Revoke all certificates of a device; returns how many. A running server sees it at once."""
    authority = _authority(folder)
    mine = [known for known in list_issued(folder) if known.device == making.check_name(name)]
    if not mine:
        raise KeysError(
            f"keys: no certificate was made for device {name!r}: see cutlayer keys show"
        )
    fresh = [known.serial for known in mine if known.revoked is None]
    now = datetime.now(UTC)
    revoked = _revoked(folder, authority.certificate) | dict.fromkeys(fresh, now)
    with _writing(folder):
        write_atomically(folder / REVOKED, making.make_revocations(authority, revoked))
    return len(fresh)


def list_issued(folder: Path) -> list[Issued]:
    """The server's and the devices' certificates, the server's first, then by name and age."""
    revoked = _revoked(folder, load_certificate(folder / f"{AUTHORITY}.crt"))
    issued = []
    for path in (folder / _ISSUED).glob("*.crt"):
        certificate = load_certificate(path)
        try:
            device = making.device_name(certificate)
        except KeysError:
            device = None
        serial = certificate.serial_number
        until = certificate.not_valid_after_utc
        issued.append(Issued(device, serial, until, revoked.get(serial)))
    return sorted(issued, key=lambda known: (known.device or "", known.expires))


def load_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM file. Raises KeysError."""
    try:
        return x509.load_pem_x509_certificate(read(path))
    except ValueError:
        raise KeysError(f"keys: {path} is no certificate: restore it, or make it anew") from None


def load_pair(folder: Path, name: str) -> Pair:
    """NAME.key and NAME.crt of a folder. Raises KeysError unless they belong together."""
    certificate = load_certificate(folder / f"{name}.crt")
    path = folder / f"{name}.key"
    try:
        key = serialization.load_pem_private_key(read(path), password=None)
    except (ValueError, TypeError):
        raise KeysError(f"keys: {path} is no private key: restore it, or make it anew") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != certificate.public_key()
    ):
        raise KeysError(f"keys: {path} does not belong to {name}.crt: take both from one place")
    return Pair(key, certificate)


def read(path: Path) -> bytes:
    """The content of a file of keys. Raises KeysError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeysError(
            f"keys: cannot read {path} ({error.strerror}): name a folder that cutlayer keys made"
        ) from None


def _bundle(folder: Path, authority: Pair, name: str, days: int) -> Path:
    """Make a device's certificate and the folder that it gets."""
    pair = making.make_device(authority, name, days)
    bundle = folder / _DEVICES / name
    with _writing(folder):
        _record(folder, pair)
        bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(bundle / f"{AUTHORITY}.crt", authority.certificate_pem)
        _write_pair(bundle, DEVICE, pair)
    return bundle


def _authority(folder: Path) -> Pair:
    if not (folder / f"{AUTHORITY}.crt").exists():
        raise KeysError(
            f"keys: {folder} holds no authority: make one with cutlayer keys init {folder}"
        )
    if not (folder / f"{AUTHORITY}.key").exists():
        raise KeysError(
            f"keys: {folder} holds no {AUTHORITY}.key, which makes and revokes keys: run this "
            "where that file is kept, and copy the new files here"
        )
    authority = load_pair(folder, AUTHORITY)
    until = authority.certificate.not_valid_after_utc
    if until <= datetime.now(UTC):
        raise KeysError(
            f"keys: the authority of {folder} expired on {until:%Y-%m-%d}: make a new fleet with "
            "cutlayer keys init"
        )
    return authority


def _revoked(folder: Path, authority: x509.Certificate) -> dict[int, datetime]:
    return making.read_revocations(read(folder / REVOKED), authority)


def _record(folder: Path, pair: Pair) -> None:
    """Write a copy before the certificate is written anywhere else, so that it can be revoked."""
    (folder / _ISSUED).mkdir(mode=0o700, exist_ok=True)
    name = f"{pair.certificate.serial_number:x}.crt"
    write_atomically(folder / _ISSUED / name, pair.certificate_pem)


def _write_pair(folder: Path, name: str, pair: Pair) -> None:
    write_atomically(folder / f"{name}.key", pair.key_pem, mode=0o600)
    write_atomically(folder / f"{name}.crt", pair.certificate_pem)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KeysError(
            f"keys: cannot write in {folder} ({error.strerror}): name another folder"
        ) from None
