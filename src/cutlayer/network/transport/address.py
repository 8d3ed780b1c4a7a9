"""HOST:PORT, at which a server listens and devices reach it."""

import ipaddress
import re
import socket

from cutlayer.errors import NetworkError


def split_address(address: str, field: str, *, any_port: bool = True) -> tuple[str, int]:
    """The host and port of HOST:PORT or [IPV6]:PORT; any_port: port 0, any free one, is allowed.

    Raises NetworkError, naming `field`.
    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    right = re.fullmatch(r"[A-Za-z0-9._-]+", host) or (bare != host and _is_ip(bare))
    if not right or not re.fullmatch(r"[0-9]{1,5}", port):
        raise NetworkError(
            f"{field}: {address!r} is no HOST:PORT: name both, as in 192.168.1.10:7311"
        )
    if not (not any_port) <= int(port) < 2**16:
        raise NetworkError(f"{field}: there is no port {port}: take one of 1 to 65535")
    return bare, int(port)


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is reached from this machine only."""
    host = split_address(address, "address")[0]
    return ipaddress.ip_address(host).is_loopback if _is_ip(host) else host == "localhost"


def listen_at(address: str, field: str) -> socket.socket:
    """A socket that listens at an address. Raises NetworkError."""
    host, port = split_address(address, field)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
            listening.listen()
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise NetworkError(
            f"{field}: cannot listen on {address} ({error.strerror}): name another address of "
            "this machine, or a port that is free"
        ) from None
    return listening


def check_free(address: str, field: str) -> None:
    """Raise NetworkError unless this process could listen at the address now."""
    listen_at(address, field).close()


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
