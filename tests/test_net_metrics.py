"""What Prometheus reads off a server."""

import asyncio
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from cutlayer.errors import NetworkError
from cutlayer.network.server.serve import ServeOptions, serve
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.metrics import Metrics
from cutlayer.record.rows import Row
from cutlayer.rounds.progress import Silent
from fleet_helpers import crowd, events
from helpers import small_job
from net_helpers import eventually, play, site

MONITORING = Path(__file__).resolve().parents[1] / "examples" / "monitoring"
OF_PROMETHEUS = {"up", "job", "instance"}
"""What Prometheus itself adds."""


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
            metrics.round_seconds.observe(2.5)
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


def test_a_device_with_a_place_that_is_not_connected_is_told_by_name() -> None:
    async def scene() -> None:
        async with site() as place:
            metrics = Metrics(place.listener, lambda: ["cam-6", "cam-7"])
            port = metrics.serve("127.0.0.1:0")
            await place.join("cam-6")
            away, _ = await place.join("cam-7")
            await place.join("guest")
            now = await asyncio.to_thread(scrape, port)
            assert now["cutlayer_device_connected", "cam-7"] == 1
            away.end("gone")
            await eventually(lambda: "cam-7" not in place.listener.connections)
            now = await asyncio.to_thread(scrape, port)
            told = {key[1:]: value for key, value in now.items() if "device_connected" in key[0]}
            assert told == {("cam-6",): 1, ("cam-7",): 0}
            metrics.close()

    play(scene())


def test_figures_of_the_run_are_served_once_they_are_known() -> None:
    async def scene() -> None:
        async with site() as place:
            metrics = Metrics(place.listener)
            port = metrics.serve("127.0.0.1:0")
            now = await asyncio.to_thread(scrape, port)
            assert not {"cutlayer_accuracy", "cutlayer_rounds_done"} & {key[0] for key in now}
            metrics.run.rounds_done, metrics.run.accuracy = 3, 0.5
            now = await asyncio.to_thread(scrape, port)
            assert now["cutlayer_rounds_done",] == 3
            assert now["cutlayer_accuracy",] == 0.5
            metrics.close()

    play(scene())


def test_a_served_run_tells_of_its_rounds_and_of_who_is_there(tmp_path: Path) -> None:
    log, told = tmp_path / "server.log", dict[tuple[str, ...], float]()

    class Scraper(Silent):
        def round_done(self, row: Row) -> None:
            (started,) = events(log, "metrics")
            told.update(scrape(started["port"]))

    options = ServeOptions("127.0.0.1:0", metrics="127.0.0.1:0", log=log)
    few = ("devices.count=2", "training.rounds=1", "data.train_samples=32")
    with crowd() as devices:

        def bring(port: int) -> None:
            for number in range(2):
                devices.join(port, number, f"cam-{number}")

        job = small_job(*few)
        run = serve(job, out=tmp_path / "run", options=options, progress=Scraper(), on_port=bring)
    assert devices.errors == {}
    assert told["cutlayer_rounds",] == told["cutlayer_rounds_done",] == 1
    assert told["cutlayer_accuracy",] == run.accuracy
    assert told["cutlayer_loss",] == run.rows[0].loss
    assert [told["cutlayer_device_connected", f"cam-{number}"] for number in range(2)] == [1, 1]


def _expressions(node: Any) -> Iterator[str]:
    """All expressions of alerts or of a board."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr":
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _expressions(value)


@pytest.mark.parametrize("name", ["alerts.yaml", "grafana.json"])
def test_alerts_and_board_ask_for_what_the_server_serves(name: str) -> None:
    text = (MONITORING / name).read_text()
    asked = list(_expressions(json.loads(text) if name.endswith("json") else yaml.safe_load(text)))
    assert len(asked) > 5

    served: dict[str, dict[str, set[str]]] = {}

    async def scene() -> None:
        async with site() as place:
            metrics = Metrics(place.listener, lambda: ["cam-7"])
            run = metrics.run
            run.rounds, run.rounds_done, run.loss, run.accuracy = 9, 3, 0.7, 0.5
            for family in metrics.registry.collect():
                for sample in family.samples:
                    labels = served.setdefault(sample.name, {})
                    for label, value in sample.labels.items():
                        labels.setdefault(label, set()).add(value)

    play(scene())
    for expression in asked:
        names = set(re.findall(r"\bcutlayer_\w+", expression))
        assert names <= set(served), f"{expression}: the server serves no {names - set(served)}"
        assert names or "up{" in expression
        labels: dict[str, set[str]] = {}
        for one in names:
            labels |= served[one]
        for label, value in re.findall(r'(\w+)="([^"]+)"', expression):
            assert label in OF_PROMETHEUS or value in labels[label], expression
        for group in re.findall(r"\b(?:by|on) \(([\w, ]+)\)", expression):
            assert set(group.split(", ")) <= set(labels) | OF_PROMETHEUS, expression


def test_prometheus_takes_the_alerts_and_its_settings() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (apt-get install prometheus)")
    command = [promtool, "check", "config", MONITORING / "prometheus.yaml"]  # and its rule files
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "rules found" in checked.stdout


def test_each_alert_is_explained_in_the_docs() -> None:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    page = (MONITORING.parents[1] / "docs" / "deploy.md").read_text()
    rules = [rule for group in groups for rule in group["rules"]]
    for rule in rules:
        assert f"`{rule['alert']}`" in page
        assert rule["annotations"]["summary"]
