"""Limits of a connection: sizes, times and counts, and the gRPC settings that follow."""

from dataclasses import dataclass
from enum import StrEnum

from cutlayer.network.transport.descriptors import connections_at_hand

SERVICE = "cutlayer.Link"
SESSION_KEY = "cutlayer-session"


class Lane(StrEnum):
    """The streams of a connection; none waits for another.

    CONTROL carries messages both ways. UP carries frames from the device: activations and trained
    adapters. DOWN carries frames to it: gradients and broadcast adapters.
    """

    CONTROL = "control"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True)
class Limits:
    """Limits that both sides keep, and that each side enforces on the other."""

    max_frame_bytes: int = 2**28
    """The most bytes of one frame."""

    frames_in_flight: int = 2
    """How many frames of a lane may be on their way before the other side has read one of them."""

    max_message_bytes: int = 2**20 + 2**12
    """The most bytes of one control message."""

    messages_in_flight: int = 32
    """How many control messages may be on their way before the other side has read one of them."""

    chunk_bytes: int = 2**17
    """A frame is sent in pieces of this many bytes."""

    hello_s: float = 15.0
    """The most seconds from connecting until all lanes of a connection are open."""

    stall_s: float = 60.0
    """Seconds without progress after which a frame that has begun ends the connection."""

    heartbeat_s: float = 15.0
    """Seconds from one ping of a device to the next."""

    idle_s: float = 60.0
    """Seconds of silence after which the other side counts as gone."""

    max_connections: int = 4096
    """The most devices on one server."""

    sessions_per_device: int = 4
    """The most connections of one device at a time, including those that are still being opened; a
    new one ends the oldest.
    """

    def window(self, lane: Lane, by_server: bool) -> int:
        """How many frames may come on a lane to one side before it reads one of them.

        by_server: whether that side is the server.
        """
        if lane is Lane.CONTROL:
            return self.messages_in_flight
        return self.frames_in_flight if (lane is Lane.UP) == by_server else 0

    def size(self, lane: Lane) -> int:
        """The largest frame of a lane, in bytes."""
        return self.max_message_bytes if lane is Lane.CONTROL else self.max_frame_bytes


Options = list[tuple[str, int]]


def server_options(limits: Limits) -> Options:
    """Settings of a gRPC server."""
    return [
        *_common(limits),
        # A second server on the same port is an error.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", len(Lane) + 1),
        # More than max_connections: some replace others, and some are still in their handshake.
        (
            "grpc.max_allowed_incoming_connections",
            connections_at_hand(2 * limits.max_connections + 64),
        ),
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.hello_s)),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.idle_s)),
        # Devices ping as often as `client_options` says; pings a little more often are allowed.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _milliseconds(limits.idle_s / 6)),
    ]


def client_options(limits: Limits) -> Options:
    """Settings of a gRPC channel."""
    return [
        *_common(limits),
        # Otherwise the channels of a process share one connection, and its wait after a failure.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
    ]


def _common(limits: Limits) -> Options:
    largest = limits.chunk_bytes + 64
    return [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", largest),
        ("grpc.max_metadata_size", 8192),
        ("grpc.absolute_max_metadata_size", 16384),
        ("grpc.keepalive_time_ms", _milliseconds(limits.idle_s / 2)),
        ("grpc.keepalive_timeout_ms", _milliseconds(limits.idle_s / 4)),
        ("grpc.keepalive_permit_without_calls", 0),
    ]


def _milliseconds(seconds: float) -> int:
    return max(1, round(1000 * seconds))
