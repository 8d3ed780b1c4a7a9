"""The folder of a fleet's keys: an authority, the server's and each device's certificate.

    authority.crt, authority.key    sign certificates; the key is needed only to add and to revoke.
                                    rotation.py replaces them; both sides then trust two authorities
    server.crt, server.key          of the edge server
    revoked.crl                     the signed list of revoked certificates, read by the server
    issued/SERIAL.crt               every certificate ever signed, so that it can be revoked
    devices/NAME/                   authority.crt, device.crt, device.key: what one device gets

Keys are readable by their owner only. Nothing that exists is written over but by `renew_server` and
`renew_device`, whose old certificates hold until they expire or are revoked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from cutlayer.errors import KeysError
from cutlayer.files import write_atomically
from cutlayer.network.transport import certificates as making
from cutlayer.network.transport.certificates import Pair
from cutlayer.network.transport.key_files import (
    AUTHORITY,
    DEVICE,
    DEVICES,
    ISSUED,
    REVOKED,
    SERVER,
    load_authorities,
    load_certificate,
    load_valid_authority,
    read,
    record,
    write_authorities,
    write_pair,
    writing,
)


@dataclass(frozen=True)
class Issued:
    """A certificate of the fleet. device: its name, or None for the server's.

    issuer: the authority that signed it. trusted: the place of that authority among those that are
    trusted, 0 for the newest; None where it was retired.
    """

    device: str | None
    serial: int
    expires: datetime
    revoked: datetime | None
    issuer: x509.Name
    trusted: int | None

    @property
    def valid(self) -> bool:
        """Whether the other side accepts it now."""
        inside = self.trusted is not None and datetime.now(UTC) < self.expires
        return inside and self.revoked is None


def init(folder: Path, days: int = making.AUTHORITY_DAYS) -> None:
    """Make the authority of a fleet in a new folder. Raises KeysError where there is one."""
    if (folder / f"{AUTHORITY}.crt").exists() or (folder / f"{AUTHORITY}.key").exists():
        raise KeysError(
            f"keys: {folder} holds an authority already: name another folder, or add devices "
            "with cutlayer keys device"
        )
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority = making.make_authority(days)
        write_pair(folder, AUTHORITY, authority)
        write_atomically(folder / REVOKED, making.make_revocations(authority, {}))


def add_server(folder: Path, hosts: Sequence[str], days: int = making.DAYS) -> Path:
    """Make the server's certificate for the names and addresses of `hosts`; returns its path."""
    authority = load_valid_authority(folder)
    path = folder / f"{SERVER}.crt"
    if path.exists():
        raise KeysError(
            f"keys: {path} exists: have it made anew with cutlayer keys renew, or for other names "
            f"remove it and {SERVER}.key first"
        )
    pair = making.make_server(authority, hosts, days)
    with writing(folder):
        record(folder, pair)
        write_pair(folder, SERVER, pair)
    return path


def add_device(folder: Path, name: str, days: int = making.DAYS) -> Path:
    """Make a device's certificate; returns the folder to copy to the device.

    Raises KeysError when the name has a certificate that is neither revoked nor expired.
    """
    authority = load_valid_authority(folder)
    making.check_name(name)
    for known in list_issued(folder):
        if known.device == name and known.valid:
            raise KeysError(
                f"keys: device {name} has a certificate until {known.expires:%Y-%m-%d}: extend it "
                f"with cutlayer keys renew {name}, or for another machine revoke it first, with "
                f"cutlayer keys revoke {name}"
            )
    return make_bundle(folder, authority, name, days)


def renew_server(folder: Path, days: int = making.DAYS) -> Path:
    """Make the server's certificate anew, for the same hosts; returns its path.

    A server that runs takes it at the next connection. Raises KeysError where there is none yet.
    """
    authority = load_valid_authority(folder)
    path = folder / f"{SERVER}.crt"
    pair = making.make_server(authority, making.server_hosts(load_certificate(path)), days)
    with writing(folder):
        record(folder, pair)
        write_pair(folder, SERVER, pair)
    return path


def renew_device(folder: Path, name: str, days: int = making.DAYS) -> Path:
    """Make a device's certificate anew; returns the folder to copy over the device's.

    The old one holds until it expires. A device that runs takes the new one at its next
    connection. Raises KeysError where the device never had one, or all of its were revoked.
    """
    authority = load_valid_authority(folder)
    own = [known for known in list_issued(folder) if known.device == making.check_name(name)]
    if all(known.revoked for known in own):
        raise KeysError(
            f"keys: device {name} has no certificate that can be renewed: make one with cutlayer "
            f"keys device {name}"
        )
    return make_bundle(folder, authority, name, days)


def revoke(folder: Path, name: str) -> int:
    """Revoke all certificates of a device; returns how many. A running server sees it at once."""
    authority = load_valid_authority(folder)
    mine = [known for known in list_issued(folder) if known.device == making.check_name(name)]
    if not mine:
        raise KeysError(
            f"keys: no certificate was made for device {name!r}: see cutlayer keys show"
        )
    fresh = [known.serial for known in mine if known.revoked is None]
    now = datetime.now(UTC)
    revoked = revocations(folder) | dict.fromkeys(fresh, now)
    with writing(folder):
        write_atomically(folder / REVOKED, making.make_revocations(authority, revoked))
    return len(fresh)


def list_authorities(folder: Path) -> list[tuple[datetime, str]]:
    """Until when each trusted authority holds, and what it is now; the newest first."""
    found = []
    for place, one in enumerate(load_authorities(folder)):
        until = one.not_valid_after_utc
        state = "trusted, until it is retired" if place else "valid"
        found.append((until, state if datetime.now(UTC) < until else "expired"))
    return found


def list_issued(folder: Path) -> list[Issued]:
    """The server's and the devices' certificates, the server's first, then by name and age."""
    places = {one.subject: place for place, one in enumerate(load_authorities(folder))}
    revoked = revocations(folder)
    issued = []
    for path in (folder / ISSUED).glob("*.crt"):
        certificate = load_certificate(path)
        try:
            device = making.device_name(certificate)
        except KeysError:
            device = None
        serial = certificate.serial_number
        until = certificate.not_valid_after_utc
        issuer = certificate.issuer
        ended = revoked.get(serial)
        issued.append(Issued(device, serial, until, ended, issuer, places.get(issuer)))
    return sorted(issued, key=lambda known: (known.device or "", known.expires))


def make_bundle(folder: Path, authority: Pair, name: str, days: int) -> Path:
    """Make a device's certificate and the folder that it gets. Raises KeysError."""
    pair = making.make_device(authority, name, days)
    bundle = folder / DEVICES / name
    with writing(folder):
        record(folder, pair)
        bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_authorities(bundle, load_authorities(folder))
        write_pair(bundle, DEVICE, pair)
    return bundle


def revocations(folder: Path) -> dict[int, datetime]:
    """Serial numbers that were revoked, and when. Raises KeysError where the list is forged."""
    return making.read_revocations(read(folder / REVOKED), load_authorities(folder))
