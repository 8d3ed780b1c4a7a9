"""What a device does wrong costs its own contribution; what stops the server can be resumed."""

import asyncio
import json
import math
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cutlayer import __version__, simulate
from cutlayer.errors import DataError, NetworkError, RefusedError, RunError
from cutlayer.network.device.join import JoinOptions, join
from cutlayer.network.server.serve import ServeOptions, serve
from cutlayer.network.transport.client import connect
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import PROTOCOL, Hello, Ready, RoundBegin, StepDone, Task
from cutlayer.record.row_lines import read_rows
from cutlayer.rounds.progress import Silent
from cutlayer.settings.method import Quantizer
from cutlayer.train.result import RoundResult
from cutlayer.wire.adapter_frames import encode_adapter
from cutlayer.wire.codec import encode_activations
from cutlayer.wire.messages import ActivationsMessage, AdapterMessage
from fleet_helpers import Crowd, crowd, events, served, until
from helpers import equal, small_job


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))


class At(Silent):
    """Does something once, when so many steps of a round are done."""

    def __init__(self, round: int, steps: int, act: Callable[[], object]) -> None:
        self._when, self._act = (round, steps), act

    def step_done(self, result: RoundResult, done: int, steps: int) -> None:
        if (result.round, done) == self._when:
            self._act()


def quick_job(*settings: str, **more: Any) -> Any:
    return small_job("devices.count=3", "data.train_samples=60", *settings, **more)


def activations(device: int, value: float = 0.1, **other: Any) -> bytes:
    """A frame of one image at the demo's cut."""
    fields: dict[str, Any] = {"device": device, "round": 0, "step": 0, **other}
    hidden = torch.full((1, 50, 128), value)
    hidden[:, :, ::2] *= -1
    message = ActivationsMessage(
        **fields, hidden=hidden, mask=None, labels=torch.tensor([0]), num_classes=10
    )
    return encode_activations(message, Quantizer())


async def impostor(port: int, number: int, act: Callable[[Connection], Any]) -> str:
    """Joins as an honest device does, then acts; returns why the server let it go."""
    said = Hello(version=__version__, device=f"bad-{number}", number=number)
    connection = await connect(f"127.0.0.1:{port}", said)
    task = await connection.hear()
    assert isinstance(task, Task)
    await connection.tell(Ready(task.digest, 8, own=True))
    try:
        while not isinstance(await connection.hear(), RoundBegin):
            pass
        await act(connection)
        return await connection.wait_closed()
    except NetworkError as error:
        return str(error)


MISDEEDS: dict[str, tuple[Callable[[Connection], Any], str]] = {
    "bytes that are no frame": (lambda c: c.send(Lane.UP, b"nonsense" * 100), "not a frame"),
    "another device's frame": (lambda c: c.send(Lane.UP, activations(0)), "of device 0"),
    "a frame of another round": (lambda c: c.send(Lane.UP, activations(2, round=7)), "round 7"),
    "a frame of other classes": (
        lambda c: c.send(
            Lane.UP,
            encode_activations(
                ActivationsMessage(2, 0, 0, torch.ones(1, 50, 128), None, torch.tensor([11]), 12),
                Quantizer(),
            ),
        ),
        "12 classes",
    ),
    "a loss that is no number": (lambda c: c.send(Lane.UP, activations(2, 3e38)), "loss of"),
    "an adapter": (
        lambda c: c.send(
            Lane.UP, encode_adapter(AdapterMessage(2, 0, 8, {"a": torch.ones(2)}), 32)
        ),
        "frame of adapter",
    ),
    "a message that is not due": (lambda c: c.tell(Ready("ab", 3)), "not expected"),
    "losses that nobody asked for": (lambda c: flood(c), "came unasked"),
    "nothing": (lambda c: asyncio.sleep(0), "did not answer within 3 s"),
}


async def flood(connection: Connection) -> None:
    for _ in range(50):
        await connection.tell(StepDone(0, 0, 1.0))


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_a_device_that_sends_nonsense_costs_only_its_own_contribution(
    tmp_path: Path, misdeed: str
) -> None:
    act, why = MISDEEDS[misdeed]
    job = quick_job("training.rounds=1")
    reasons = []
    with crowd() as devices:

        def bring(port: int) -> None:
            devices.join(port, 0)
            devices.join(port, 1)
            devices.run(impostor(port, 2, act), reasons.append)

        row = served(job, tmp_path / "net", bring, answer_s=3.0).rows[0]
    assert devices.errors == {}
    assert row.lost == [2]
    assert 2 not in row.device_loss
    assert set(row.device_loss) == {0, 1}
    assert math.isfinite(row.loss)
    assert why in reasons[0]


def test_a_device_that_returns_takes_part_from_the_next_round(tmp_path: Path) -> None:
    job = quick_job("training.rounds=3")
    with crowd() as devices:
        ports: list[int] = []

        def bring(port: int) -> None:
            ports.append(port)
            for number in range(3):
                devices.join(port, number)

        def away_and_back() -> None:
            devices.leave("device-0002")
            devices.join(ports[0], 2)

        rows = served(job, tmp_path / "net", bring, progress=At(0, 1, away_and_back)).rows
    assert devices.errors == {}
    assert [row.lost for row in rows] == [[2], [], []]
    assert set(rows[1].device_loss) == {0, 1, 2}
    assert json.loads((tmp_path / "net" / "fleet.json").read_text()) == {
        f"device-000{n}": n for n in range(3)
    }


def test_a_device_that_stays_away_is_not_waited_for_again(tmp_path: Path) -> None:
    job = quick_job("training.rounds=3")
    with crowd() as devices:
        rows = served(
            job,
            tmp_path / "net",
            lambda port: [devices.join(port, n) for n in range(3)],
            progress=At(0, 1, lambda: devices.leave("device-0001")),
            return_s=0.5,
        ).rows
    assert [row.lost for row in rows] == [[1], [], []]
    assert [row.left_out for row in rows] == [{}, {1: "not connected"}, {1: "not connected"}]


def interrupt() -> None:
    raise KeyboardInterrupt


def test_devices_return_to_a_server_that_goes_on_and_nothing_counts_twice(tmp_path: Path) -> None:
    job = quick_job("training.rounds=3")
    alone = simulate(job, out=tmp_path / "alone")
    with crowd() as devices:
        ports: list[int] = []

        def bring(port: int) -> None:
            ports.append(port)
            for number in range(3):
                devices.join(port, number)

        with pytest.raises(KeyboardInterrupt):
            served(job, tmp_path / "net", bring, progress=At(1, 1, interrupt))
        assert len(read_rows(tmp_path / "net")) == 1
        together = served(job, tmp_path / "net", lambda port: None, port=ports[0], again=True)
    assert devices.errors == {}
    assert equal(alone.adapter, together.adapter)
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert one.traffic == other.traffic


def test_a_run_that_no_device_survives_stops_with_the_reason(tmp_path: Path) -> None:
    job = quick_job("training.optimizer=sgd", "training.lr=1e30", "training.rounds=9")
    # Devices look for a server that failed until they are told to stop.
    with (
        crowd(wait_s=0) as devices,
        pytest.raises(RunError, match="every device failed in 3 rounds"),
    ):
        served(job, tmp_path / "net", lambda port: [devices.join(port, n) for n in range(3)])


def test_who_cannot_take_part_is_told_why(tmp_path: Path) -> None:
    job = quick_job("training.rounds=1")
    refused: dict[str, str] = {}

    async def ask(port: int, name: str, **fields: Any) -> None:
        said = Hello(**{"version": __version__, "device": name, **fields})
        try:
            await connect(f"127.0.0.1:{port}", said)
        except RefusedError as error:
            refused[name] = str(error)

    def bring(port: int, devices: Crowd) -> None:
        devices.join(port, 0)
        devices.join(port, 1)
        devices.join(port, 2)

        async def others() -> None:
            await ask(port, "old", protocol=PROTOCOL - 1)
            await ask(port, "new", protocol=PROTOCOL + 1)
            await ask(port, "twin", number=1)
            await ask(port, "surplus")

        until(lambda: len(events(tmp_path / "net.log", "join")) == 3)
        devices.do(others())

    with crowd() as devices:
        served(job, tmp_path / "net", lambda port: bring(port, devices))
    assert "upgrade the device" in refused["old"]
    assert "upgrade the server first" in refused["new"]
    assert "is device device-0001" in refused["twin"]
    assert "all 3 devices" in refused["surplus"]


def test_a_device_that_leaves_before_it_is_ready_keeps_no_place(tmp_path: Path) -> None:
    job = quick_job("devices.count=1", "training.rounds=1")

    class Lines(Silent):
        said: list[str] = []  # noqa: RUF012

        def say(self, line: str) -> None:
            self.said.append(line)

    def bring(port: int, devices: Crowd) -> None:
        async def visit() -> None:
            said = Hello(version=__version__, device="unable")
            connection = await connect(f"127.0.0.1:{port}", said)
            await connection.hear()
            await connection.close("its photos cannot be read")

        devices.do(visit())
        until(lambda: len(events(tmp_path / "net.log", "leave")) == 1)
        devices.join(port, 0)

    with crowd() as devices:
        result = served(job, tmp_path / "net", lambda port: bring(port, devices), progress=Lines())
    assert result.rows[0].cohort == [0]
    assert any("(unable) is gone" in line for line in Lines.said)
    assert any("its photos cannot be read" in line for line in Lines.said)


def test_data_that_are_not_there_are_missed_before_anything_is_connected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^--data: there is no "):
        join(JoinOptions("127.0.0.1:9", name="cam-1", data=tmp_path / "images"))


def test_a_port_in_use_leaves_no_run_folder_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        desk = ServeOptions(f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(NetworkError, match=r"^address: cannot listen on"):
            serve(quick_job(), options=desk, out=tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_the_log_tells_who_came_and_went(tmp_path: Path) -> None:
    job = quick_job("training.rounds=1")
    with crowd() as devices:
        served(job, tmp_path / "net", lambda port: [devices.join(port, n) for n in range(3)])
    log = tmp_path / "net.log"
    assert {event["number"] for event in events(log, "join")} == {0, 1, 2}
    assert {event["reason"] for event in events(log, "leave")} == {
        "the other side left (the job is done)"
    }
    (row,) = events(log, "round")
    assert row["up_bytes"] == read_rows(tmp_path / "net")[0].up_bytes
