"""Checks that a server makes of a device before it accepts a connection, and during it."""

from collections.abc import Callable, Iterable, Mapping

from cutlayer import __version__
from cutlayer.errors import RefusedError
from cutlayer.harmless import harmless
from cutlayer.network.transport.identity import Identity
from cutlayer.network.transport.messages import OLDEST_PROTOCOL, PROTOCOL, Hello, Message
from cutlayer.network.transport.peers import Peer, peer_of

Admit = Callable[[str, Hello], None]
"""Called with a device's name. To refuse the device it raises RefusedError, or NetworkError if the
device may try again."""


def identify(identity: Identity | None, properties: Mapping[str, Iterable[bytes]]) -> Peer | None:
    """The device by its certificate; None if the server has no identity. Raises CutlayerError."""
    if identity is None:
        return None
    peer = peer_of(properties)
    still_good(identity, peer)()
    return peer


def still_good(identity: Identity | None, peer: Peer | None) -> Callable[[], None]:
    """A check that a peer's certificate is neither revoked nor expired; raises CutlayerError."""
    if identity is None or identity.revocations is None or peer is None:
        return lambda: None
    revocations = identity.revocations
    return lambda: revocations.check(peer)


def check_hello(message: Message, peer: Peer | None) -> Hello:
    """A device's first message, if it is a valid hello. Raises RefusedError."""
    if not isinstance(message, Hello):
        raise RefusedError("hello: another message came first: run the same cutlayer on both sides")
    if message.protocol < OLDEST_PROTOCOL:
        raise RefusedError(
            f"hello: protocol {message.protocol} of the device's cutlayer "
            f"{harmless(message.version)} is too old for this server, which serves "
            f"{OLDEST_PROTOCOL} or later: upgrade the device to cutlayer {__version__}"
        )
    if message.protocol > PROTOCOL:
        raise RefusedError(
            f"hello: protocol {message.protocol} of the device's cutlayer "
            f"{harmless(message.version)} is newer than this server's, {PROTOCOL}: upgrade the "
            "server first, and devices after it"
        )
    if peer is not None and message.device not in (None, peer.name):
        raise RefusedError(
            f"hello: it names device {message.device}, but the certificate names {peer.name}: give "
            "each device its own keys"
        )
    return message


def name_of(hello: Hello, peer: Peer | None) -> str:
    """The device's name. Raises RefusedError if neither certificate nor hello has one."""
    name = peer.name if peer is not None else hello.device
    if name is None:
        raise RefusedError("hello: it has no device name, and there is no certificate: name one")
    return name
