"""Eight devices on loopback sum up their adapters; some die in the round, and the sum is exact."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cutlayer import simulate
from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.secure_sum import messages
from cutlayer.secure_sum.device import SumDevice
from cutlayer.secure_sum.fixed_point import scale_of, to_words
from cutlayer.train.device import Device
from cutlayer.train.server import Server
from fleet_helpers import crowd, served
from helpers import equal, small_job

EIGHT = (
    "devices.count=8",
    "data.train_samples=64",
    "data.partition.kind=iid",
    "training.rounds=1",
    "training.pool=1",
    "privacy.secure_sum=true",
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))


class Watched:
    """What devices summed up, and the mean that the server learned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: dict[int, np.ndarray] = {}
        self.change: Adapter | None = None
        self.received: list[bytes] = []
        answer, collect, begin = Device.answer, Server.collect, SumDevice.__init__

        def watched_begin(device: SumDevice, number: int, round: int, values: np.ndarray) -> None:
            self.values[number] = values
            begin(device, number, round, values)

        def watched_answer(device: Device, question: bytes) -> bytes:
            self.received.append(answer(device, question))
            return self.received[-1]

        def watched_collect(server: Server, trained: Any, change: Any) -> Any:
            assert not any(one.upload for one in trained.values())
            self.change = change
            return collect(server, trained, change)

        monkeypatch.setattr(SumDevice, "__init__", watched_begin)
        monkeypatch.setattr(Device, "answer", watched_answer)
        monkeypatch.setattr(Server, "collect", watched_collect)

    def exact(self, devices: list[int]) -> np.ndarray:
        """The mean of some devices that weigh alike, from their integers."""
        words = [to_words(self.values[n], 8).view(np.int32).astype(np.int64) for n in devices]
        mean: np.ndarray = np.sum(words, axis=0) / scale_of(8) / len(devices)
        return mean

    def found(self) -> np.ndarray:
        assert self.change is not None
        return torch.cat([self.change[n].flatten() for n in sorted(self.change)]).numpy()


def die(monkeypatch: pytest.MonkeyPatch, when: dict[int, type[messages.Request]]) -> None:
    """Let devices fail at a question, before they answer."""
    answer = Device.answer

    def dying(device: Device, question: bytes) -> bytes:
        if isinstance(messages.read_request(question), when.get(device.id, ())):
            raise RunError("the device dies")
        return answer(device, question)

    monkeypatch.setattr(Device, "answer", dying)


def run(job: Job, out: Path, answer_s: float = 60.0) -> Any:
    with crowd() as devices:

        def bring(port: int) -> None:
            for number in range(8):
                devices.join(port, number)

        return served(job, out, bring, answer_s=answer_s)


def test_two_of_eight_die_and_the_sum_of_the_others_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    die(monkeypatch, {6: messages.Delivery, 7: messages.Roster})
    result = run(small_job(*EIGHT), tmp_path / "net")
    row = result.rows[0]
    assert sorted(row.lost) == [6, 7]
    assert (watched.found() == watched.exact([0, 1, 2, 3, 4, 5])).all()
    # All that came up besides activations: 4 bytes a number under its masks, keys and shares.
    numbers = len(watched.values[0])
    assert all(4 * numbers < row.traffic[n][3] < 4 * numbers + 3000 for n in range(6))
    assert sum(len(frame) for frame in watched.received) == sum(t[3] for t in row.traffic.values())


def test_a_networks_adapter_is_the_simulators_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job(*EIGHT)
    watched = Watched(monkeypatch)
    simulated = simulate(job, out=tmp_path / "simulated")
    assert (watched.found() == watched.exact(list(range(8)))).all()
    networked = run(job, tmp_path / "net")
    assert equal(simulated.adapter, networked.adapter)
    sent = [sum(t[3] for t in one.rows[0].traffic.values()) for one in (simulated, networked)]
    assert sent[0] == sent[1]


def test_the_sum_is_what_plain_averaging_gives(tmp_path: Path) -> None:
    plain = simulate(small_job(*EIGHT[:-1]), out=tmp_path / "plain")
    summed = simulate(small_job(*EIGHT), out=tmp_path / "summed")
    for name, tensor in plain.adapter.items():
        torch.testing.assert_close(summed.adapter[name], tensor, rtol=0, atol=3e-7)


def test_with_three_gone_the_round_is_lost_and_the_adapter_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die(monkeypatch, dict.fromkeys((5, 6, 7), messages.Delivery))
    row = run(small_job(*EIGHT), tmp_path / "net").rows[0]
    assert sorted(row.lost) == list(range(8))
