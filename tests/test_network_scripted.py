"""Devices that run no program of ours: they say what they like, and train nothing."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("grpc")

from cutlayer import __version__
from cutlayer.errors import NetworkError
from cutlayer.job import Job
from cutlayer.network.transport.client import connect
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.messages import (
    Done,
    Hello,
    Message,
    Probe,
    Probed,
    Ready,
    RoundBegin,
    RoundEnd,
    StepDone,
    Task,
)
from cutlayer.rounds.result import Result
from cutlayer.settings.method import Quantizer
from cutlayer.wire.adapter_frames import decode_adapter, encode_adapter
from cutlayer.wire.codec import encode_activations
from cutlayer.wire.messages import ActivationsMessage, AdapterMessage
from fleet_helpers import crowd, served
from helpers import equal, small_job

LIAR, HONEST = 2, (0, 1)
# The most samples that a device can say it has.
MOST = 2**31


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))


@dataclass
class Script:
    """What a device does in a round; it counts the steps that it was asked for.

    samples: that it says it has of its own. say: sent as soon as it is ready, unasked.
    """

    play: Callable[["Script", Connection, RoundBegin], Awaitable[None]]
    samples: int = 100
    say: tuple[Message, ...] = ()
    steps: int = 0

    async def follow(self, port: int) -> None:
        hello = Hello(version=__version__, device=f"device-{LIAR:04d}", number=LIAR)
        connection = await connect(f"127.0.0.1:{port}", hello)
        try:
            task = await connection.hear()
            assert isinstance(task, Task)
            await connection.tell(Ready(task.digest, self.samples, own=True))
            for message in self.say:
                await connection.tell(message)
            while not isinstance(asked := await connection.hear(), Done):
                if isinstance(asked, RoundBegin):
                    self.steps = asked.steps
                    await self.play(self, connection, asked)
        except NetworkError:
            pass  # the job is done, or the server has had enough
        finally:
            await connection.close("the script is over")


async def upload(
    connection: Connection,
    begin: RoundBegin,
    frame: bytes,
    make: Callable[[torch.Tensor], torch.Tensor] = torch.randn_like,
) -> None:
    """Some numbers of the right names and shapes, in place of what was to be trained."""
    tensors = {name: make(one) for name, one in decode_adapter(frame).tensors.items()}
    message = AdapterMessage(LIAR, begin.round, 0, tensors)
    await connection.send(Lane.UP, encode_adapter(message, 32))


async def spam(_: Script, connection: Connection, begin: RoundBegin, *, slow: int = 0) -> None:
    """The losses of all steps at once, but for the first few, of which each takes a while."""
    frame = await connection.receive(Lane.DOWN)
    for step in range(begin.steps):
        await connection.tell(StepDone(begin.round, step, 0.001))
        await asyncio.sleep(0.2 if step < slow else 0)
    await upload(connection, begin, frame)


async def leave(_: Script, connection: Connection, begin: RoundBegin) -> None:
    raise NetworkError("gone at once")


async def stay(_: Script, connection: Connection, begin: RoundBegin) -> None:
    await connection.wait_closed()


async def crumbs(_: Script, connection: Connection, begin: RoundBegin, *, value: float) -> None:
    """One sample of zeros a step, in one bit, for as many steps as there are.

    value: of all numbers of the adapter.
    """
    frame = await connection.receive(Lane.DOWN)
    bit = Quantizer(bits=1, entropy="none")
    for step in range(begin.steps):
        label = torch.tensor([0])
        hidden = torch.zeros(1, SHAPE[0], SHAPE[1])
        message = ActivationsMessage(LIAR, begin.round, step, hidden, None, label, 10)
        await connection.send(Lane.UP, encode_activations(message, bit))
        await connection.receive(Lane.DOWN)
    await upload(connection, begin, frame, lambda one: torch.full_like(one, value))


# Tokens and width of the demo model before its cut.
SHAPE = (50, 128)


def job_of(method: Any, devices: int = 3, **sections: Any) -> Job:
    sizes = ("training.rounds=1", f"data.train_samples={15 * devices}", "data.test_samples=20")
    return small_job(*sizes, f"devices.count={devices}", method=method, **sections)


def run(job: Job, out: Path, script: Script | None, **timeouts: Any) -> Result:
    """Serve a job to the honest devices, and to one that follows a script."""
    numbers = (*HONEST, LIAR) if script else HONEST
    with crowd() as devices:

        def bring(port: int) -> None:
            for number in HONEST:
                devices.join(port, number)
            if script is not None:
                devices.run(script.follow(port), lambda _: None)

        return served(job, out, bring, **{"devices": len(numbers), "answer_s": 60.0, **timeouts})


def check_honest(found: Result) -> None:
    (row,) = found.rows
    assert set(HONEST) <= set(row.device_loss) - set(row.lost)
    assert math.isfinite(row.loss)
    assert all(torch.isfinite(tensor).all() for tensor in found.adapter.values())


@pytest.mark.parametrize(("samples", "slow"), [(20_000, 4), (MOST, 0)])
def test_losses_of_samples_that_nobody_saw_count_as_two_devices_at_most(
    samples: int, slow: int, tmp_path: Path
) -> None:
    script = Script(partial(spam, slow=slow), samples)
    job = job_of("fedlora")
    found = run(job, tmp_path / "run", script)
    check_honest(found)
    told = found.rows[0].samples_trained
    honest = [told[number] for number in HONEST]
    assert script.steps < 100
    assert LIAR in found.rows[0].lost or told[LIAR] <= 2 * max(honest)


@pytest.mark.parametrize(("method", "samples"), [("tsflora", MOST), ("fedlora", 1)])
def test_who_leaves_as_a_round_begins_costs_the_others_nothing(
    method: str, samples: int, tmp_path: Path
) -> None:
    script = Script(leave, samples)
    job = job_of(method)
    found = run(job, tmp_path / "run", script)
    check_honest(found)
    assert found.rows[0].lost == [LIAR]
    alone = run(job, tmp_path / "alone", None)
    assert equal(found.adapter, alone.adapter)


def test_who_answers_nothing_costs_the_others_the_patience_and_no_more(tmp_path: Path) -> None:
    found = run(job_of("fedlora"), tmp_path / "run", Script(stay), answer_s=10.0)
    check_honest(found)
    assert found.rows[0].lost == [LIAR]


def test_crumbs_end_with_the_steps_that_are_granted_and_weigh_what_came(tmp_path: Path) -> None:
    adapters = []
    for value, timeouts in ((0.01, {}), (0.03, {"round_s": 120.0})):
        script = Script(partial(crumbs, value=value), MOST)
        found = run(job_of("sflora"), tmp_path / f"run-{value}", script, **timeouts)
        check_honest(found)
        adapters.append(found.adapter)
    assert 0 < script.steps < 300
    assert found.rows[0].lost == []
    # The averages differ by 0.02 times the weight of the device that sent one sample a step.
    samples = [found.rows[0].samples_trained[number] for number in HONEST]
    weight = script.steps / (script.steps + sum(samples))
    moved = {name: adapters[1][name] - adapters[0][name] for name in adapters[0]}
    on_device = [one for one in moved.values() if one.mean().isclose(torch.tensor(0.02 * weight))]
    assert on_device, {name: one.mean() / 0.02 for name, one in moved.items()}


UNASKED: dict[str, Message] = {
    "a loss": StepDone(0, 0, 0.1),
    "an answer to no probe": Probed(0, 2, 1.0, 1.0),
    "ready again": Ready("ab", 5),
    "the server's own word": RoundEnd(0),
    "a question": Probe(0, 1),
}


@pytest.mark.parametrize("what", UNASKED)
def test_what_was_not_due_costs_its_sender_its_place_at_most(what: str, tmp_path: Path) -> None:
    script = Script(spam, say=(UNASKED[what],) * 100)
    job = job_of("fedlora")
    check_honest(run(job, tmp_path / "run", script, return_s=0.0, begin_s=1.0))
