"""What Prometheus reads off a server."""

import asyncio
import urllib.request

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from cutlayer.errors import NetworkError
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.metrics import Metrics
from net_helpers import eventually, play, site


def scrape(port: int) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_bytes_queues_credits_and_connections_are_told() -> None:
    async def scene() -> None:
        async with site() as place:
            metrics = Metrics(place.listener)
            port = metrics.serve("127.0.0.1:0")
            device, server = await place.join("cam-1")
            for _ in range(2):
                await device.send(Lane.UP, bytes(1000))
            await eventually(lambda: server.lane(Lane.UP).unread == 2)
            metrics.batches.inc()
            metrics.rounds.observe(2.5)
            await eventually(lambda: server.lane(Lane.DOWN).credit == 2)
            now = await asyncio.to_thread(scrape, port)
            assert now["cutlayer_payload_bytes_total", "received", "up"] == 2000
            assert now["cutlayer_frames_total", "received", "up"] == 2
            assert now["cutlayer_overhead_bytes_total", "received", "up"] > 0
            assert now["cutlayer_queue_frames", "to take", "up"] == 2
            assert now["cutlayer_credit_frames", "down"] == 2
            assert now["cutlayer_devices",] == 1
            assert now["cutlayer_batches_total",] == 1
            assert now["cutlayer_round_seconds_sum",] == 2.5
            assert now["cutlayer_connections_events_total", "join"] == 1
            await place.join("cam-1")
            await device.wait_closed()
            now = await asyncio.to_thread(scrape, port)
            assert now["cutlayer_connections_events_total", "reconnect"] == 1
            assert now["cutlayer_connections_events_total", "drop"] == 0
            assert now["cutlayer_payload_bytes_total", "received", "up"] == 2000
            metrics.close()

    play(scene())


@pytest.mark.parametrize("address", ["127.0.0.1:here", "192.0.2.1:9311", "9999999", "127.0.0.1"])
def test_an_address_that_cannot_be_had_is_one_sentence(address: str) -> None:
    async def scene() -> None:
        async with site() as place:
            with pytest.raises(NetworkError, match="--metrics: "):
                Metrics(place.listener).serve(address)

    play(scene())
