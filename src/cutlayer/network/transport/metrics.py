"""Figures of a server for Prometheus, read from its listener when they are asked for."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cutlayer.errors import NetworkError
from cutlayer.network.transport.address import check_free, split_address
from cutlayer.network.transport.listener import Listener

_ROUND_S = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class _Stoppable(Protocol):
    def shutdown(self) -> None: ...
    def server_close(self) -> None: ...


@dataclass
class RunFigures:
    """How far a run is; a figure that is None is not known yet, and not served."""

    rounds: int | None = None
    """Rounds that the job has."""

    rounds_done: int | None = None
    """Rounds that are finished, including those before a `--resume`."""

    loss: float | None = None
    """Mean training loss of the last round; NaN if no device trained in it."""

    accuracy: float | None = None
    """Accuracy of the last round that was tested, from 0 to 1."""


class Metrics:
    """Counters of one server in a registry of their own.

    batches, round_seconds, run: updated by the training. places: returns the names of the devices
    that have a number in the run; called from another thread. The listener gives the rest: bytes
    and frames by lane and direction, overhead bytes, frames waiting to be sent or received,
    credits, connected devices, and events of connections.
    """

    def __init__(
        self, listener: Listener, places: Callable[[], Collection[str]] = tuple[str, ...]
    ) -> None:
        self.registry = CollectorRegistry()
        self.batches = Counter(
            "cutlayer_batches", "Batches the server trained on.", registry=self.registry
        )
        self.round_seconds = Histogram(
            "cutlayer_round_seconds",
            "Time of a round, waiting for devices included.",
            buckets=_ROUND_S,
            registry=self.registry,
        )
        self.run = RunFigures()
        self.registry.register(_OfRun(self.run))
        self.registry.register(_OfListener(listener, places))
        self._server: _Stoppable | None = None

    def serve(self, address: str) -> int:
        """Answer at http://HOST:PORT/metrics; returns the port. Raises NetworkError."""
        check_free(address, "--metrics")
        host, port = split_address(address, "--metrics")
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:  # another program took the address just now
            raise NetworkError(
                f"--metrics: cannot listen on {address} ({error.strerror})"
            ) from None
        self._server = server
        return int(server.server_port)

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _OfRun(Collector):
    def __init__(self, run: RunFigures) -> None:
        self._run = run

    def collect(self) -> Iterator[Metric]:
        """How far the run is, now."""
        run = self._run
        for name, help_, value in (
            ("rounds", "Rounds of the job.", run.rounds),
            ("rounds_done", "Rounds that are finished.", run.rounds_done),
            ("loss", "Mean training loss of the last round.", run.loss),
            ("accuracy", "Accuracy of the last round tested, 0 to 1.", run.accuracy),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"cutlayer_{name}", help_, value=value)


class _OfListener(Collector):
    def __init__(self, listener: Listener, places: Callable[[], Collection[str]]) -> None:
        self._listener, self._places = listener, places

    def collect(self) -> Iterator[Metric]:
        """What the listener counts, now."""
        labels = ["lane", "direction"]
        payload = CounterMetricFamily("cutlayer_payload_bytes", "Bytes of frames.", labels=labels)
        overhead = CounterMetricFamily(
            "cutlayer_overhead_bytes", "Bytes that carrying frames took.", labels=labels
        )
        count = CounterMetricFamily("cutlayer_frames", "Frames.", labels=labels)
        for lane, passed in self._listener.traffic.items():
            for direction, values in {
                "received": (
                    passed.received_bytes,
                    passed.received_overhead_bytes,
                    passed.frames_received,
                ),
                "sent": (passed.sent_bytes, passed.sent_overhead_bytes, passed.frames_sent),
            }.items():
                for family, value in zip((payload, overhead, count), values, strict=True):
                    family.add_metric([lane, direction], value)
        yield from (payload, overhead, count)
        yield from self._queues()
        events = CounterMetricFamily(
            "cutlayer_connections_events", "What became of connections.", labels=["event"]
        )
        for event in ("join", "reconnect", "leave", "close", "drop", "refused"):
            events.add_metric([event], self._listener.events[event])
        yield events

    def _queues(self) -> Iterator[Metric]:
        live = list(self._listener.connections.values())
        yield GaugeMetricFamily("cutlayer_devices", "Devices connected now.", value=len(live))
        # Only devices that were accepted and got ready have a number, at most as many as the job.
        connected = GaugeMetricFamily(
            "cutlayer_device_connected",
            "Of a device with a place in the run: 1 where it is connected, 0 where it is away.",
            labels=["device"],
        )
        there = {connection.name for connection in live}
        for name in sorted(self._places()):
            connected.add_metric([name], name in there)
        yield connected
        waiting = GaugeMetricFamily(
            "cutlayer_queue_frames", "Frames held by the server.", labels=["lane", "queue"]
        )
        credit = GaugeMetricFamily(
            "cutlayer_credit_frames", "Frames that devices would take now.", labels=["lane"]
        )
        for lane in self._listener.traffic:
            streams = [connection.lane(lane) for connection in live]
            waiting.add_metric([lane, "to send"], sum(stream.waiting for stream in streams))
            waiting.add_metric([lane, "to take"], sum(stream.unread for stream in streams))
            credit.add_metric([lane], sum(stream.credit for stream in streams))
        yield from (waiting, credit)
