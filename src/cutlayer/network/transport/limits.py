"""What a connection may cost: sizes, times and counts, and the gRPC settings that follow."""

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
    """Bounds that both sides keep and that each holds the other to."""

    max_frame_bytes: int = 2**28
    """Bytes of one frame at most."""

    frames_in_flight: int = 2
    """Frames of one lane that may be on their way before the other side has taken one of them."""

    max_message_bytes: int = 2**20 + 2**12
    """Bytes of one control message at most."""

    messages_in_flight: int = 32
    """Control messages that may be on their way before the other side has taken one of them."""

    chunk_bytes: int = 2**17
    """A frame travels in pieces of this size."""

    hello_s: float = 15.0
    """Seconds from connecting until all lanes of a connection are open, at most."""

    stall_s: float = 60.0
    """Seconds without progress after which a frame that has begun ends the connection."""

    heartbeat_s: float = 15.0
    """Seconds from one ping of a device to the next."""

    idle_s: float = 60.0
    """Seconds of silence after which the other side counts as gone."""

    max_connections: int = 4096
    """Devices on one server at most."""

    sessions_per_device: int = 4
    """Connections of one device at a time, those still being opened included; the oldest gives way
    to a new one.
    """

    def window(self, lane: Lane, by_server: bool) -> int:
        """How many frames one side takes on a lane before it gives way again."""
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
        # A second server on the port is an error, not a partner.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", len(Lane) + 1),
        # Connections that replace one another, and those still in their handshake, come on top.
        (
            "grpc.max_allowed_incoming_connections",
            connections_at_hand(2 * limits.max_connections + 64),
        ),
        ("grpc.server_handshake_timeout_ms", _milliseconds(limits.hello_s)),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.idle_s)),
        # Devices ping as often as `client_options` says; a little more is no attack.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _milliseconds(limits.idle_s / 6)),
    ]


def client_options(limits: Limits) -> Options:
    """Settings of a gRPC channel."""
    return [
        *_common(limits),
        # Otherwise channels of one process share a connection, and its waiting after a failure.
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
