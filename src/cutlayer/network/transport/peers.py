"""Devices behind connections: who they are by their certificates, and whether they are let in."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from cutlayer.errors import KeysError, NetworkError, RefusedError
from cutlayer.network.transport.certificates import device_name
from cutlayer.network.transport.key_files import AUTHORITY, REVOKED, load_authorities, stamp
from cutlayer.network.transport.keys import list_issued, revocations


@dataclass(frozen=True)
class Peer:
    """A device as its certificate names it; without certificates, the name that it says itself.

    issuer: the authority that signed the certificate.
    """

    name: str
    serial: int | None = None
    expires: datetime | None = None
    issuer: x509.Name | None = None


class Revocations:
    """Whom a server lets in by its folder of keys: read again whenever the files change.

    With a revocation list that is missing, damaged or signed by a strange authority, every device
    is refused (KeysError). tell: called with one sentence when a device comes with a certificate of
    an authority that is being replaced, and when it has moved to the new one.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = lambda line: None) -> None:
        self._folder, self._tell = folder, tell
        self._stamps: list[tuple[int, int, int] | None] = []
        self._revoked: Mapping[int, datetime] = {}
        self._trusted: Sequence[x509.Name] = ()
        self._to_move: set[str] = set()

    def check(self, peer: Peer) -> None:
        """Raise RefusedError when a peer's certificate was revoked, NetworkError when it expired or
        its authority was retired.

        Whoever has one of the last two may come again: it may have been renewed by then.
        """
        self.refresh()
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
        if peer.issuer is not None:
            self._check_issuer(peer.name, peer.issuer)

    def _check_issuer(self, name: str, issuer: x509.Name) -> None:
        if issuer not in self._trusted:
            raise NetworkError(
                f"certificate: the authority that signed that of device {name} was retired: copy "
                "its folder of keys to the device again"
            )
        if issuer != self._trusted[0] and name not in self._to_move:
            self._to_move.add(name)
            self._tell(
                f"keys: device {name} uses a certificate of the earlier authority: copy its folder "
                "to it before that authority is retired"
            )
        elif issuer == self._trusted[0] and name in self._to_move:
            self._to_move.remove(name)
            self._tell(f"keys: device {name} uses a certificate of the new authority now")

    def names(self) -> set[str]:
        """The devices whose certificates were all revoked, by the copies beside the list."""
        try:
            known = list_issued(self._folder)
        except (KeysError, OSError):
            return set()  # without copies of certificates it cannot know whose were revoked
        good = {one.device for one in known if one.revoked is None}
        return {one.device for one in known if one.device is not None} - good

    def refresh(self) -> None:
        """Read the files again if they changed. Raises KeysError."""
        stamps = [stamp(self._folder / name) for name in (REVOKED, f"{AUTHORITY}.crt")]
        if None in stamps or stamps != self._stamps:
            self._revoked = revocations(self._folder)
            self._trusted = [one.subject for one in load_authorities(self._folder)]
            self._stamps = stamps


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
    name, until = device_name(certificate), certificate.not_valid_after_utc
    return Peer(name, certificate.serial_number, until, certificate.issuer)
