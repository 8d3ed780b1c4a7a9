"""What gRPC is given of an identity: for a device's channel, and for a server's handshakes."""

import grpc

from cutlayer.network.transport.identity import Identity


def channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    """A device's, for one connection: those that its files hold now."""
    now = identity.current
    return grpc.ssl_channel_credentials(now.authority, now.key, now.certificate)


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """A server's, which ask every device for a certificate of the same authority.

    gRPC asks at each handshake for what is new: a renewed certificate serves the next connection,
    and those that are open go on.
    """
    given = identity.current

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        now = identity.current
        if now is given:
            return None
        given = now
        return _configuration(now)

    first = _configuration(given)
    # The stubs do not know that None stands for "as before".
    return grpc.dynamic_ssl_server_credentials(first, renewed, True)  # type: ignore[arg-type]


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    own = [(identity.key, identity.certificate)]
    return grpc.ssl_server_certificate_configuration(own, identity.authority)
