"""What one device says falsely costs that device its place, and the honest ones nothing."""

import functools
import math
import resource
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from cutlayer.errors import FrameError
from cutlayer.job import Job
from cutlayer.network.transport.messages import Hello, Message, Probed, Ready, RoundEnd, StepDone
from cutlayer.rounds.progress import Silent
from cutlayer.rounds.result import Result
from cutlayer.settings.method import Quantizer
from cutlayer.wire.codec import decode_activations, encode_activations
from cutlayer.wire.messages import ActivationsMessage
from fleet_helpers import crowd, served
from helpers import equal, small_job
from liars import FRAMES, UPLOADS, Lie, activations, adapter, scaled, tell

HONEST = (0, 1)
WORLD: dict[str, Any] = {"deadline_s": 60.0}
GENERATED: dict[str, Any] = {"generator": {"source": "demo", "steps": 2}, "amount": 6}
SIZES = ("training.rounds=1", "data.test_samples=20")
A_DEVICE = 15
"""Samples, of which every device gets eight at least: two or three steps."""


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def job_of(method: Any, devices: int, **sections: Any) -> Job:
    samples = f"data.train_samples={A_DEVICE * devices}"
    return small_job(*SIZES, samples, f"devices.count={devices}", method=method, **sections)


def run(
    job: Job, out: Path, numbers: tuple[int, ...], progress: Any = None, **timeouts: Any
) -> Result:
    """Serve a job to devices of these numbers; none of them ends with an error of its own."""
    with crowd(wait_s=2.0) as devices:  # a liar whose server is gone would try on

        def bring(port: int) -> None:
            for number in numbers:
                devices.join(port, number)

        return served(job, out, bring, progress=progress, **{"devices": len(numbers), **timeouts})


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Job], Result]:
    """The run of a job to which only the honest devices come, each made once."""

    @functools.lru_cache
    def make(text: str) -> Result:
        folder = tmp_path_factory.mktemp("without")
        return run(Job.model_validate_json(text), folder / "run", HONEST)

    return lambda job: make(job.model_dump_json())


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))


def message(kind: type[Message], **fields: Any) -> Lie:
    """A device whose messages of one kind have other values."""

    def edit(one: Message) -> Message:
        return msgspec.structs.replace(one, **fields) if isinstance(one, kind) else one

    return Lie(message=edit)


def check(
    lies: dict[str, Lie],
    method: Any,
    without: Callable[[Job], Result],
    monkeypatch: pytest.MonkeyPatch,
    out: Path,
    **sections: Any,
) -> tuple[Result, list[str]]:
    """Run all the lies at once, a device each, beside two honest devices."""
    liars = {number + len(HONEST): lie for number, lie in enumerate(lies.values())}
    job = job_of(method, len(HONEST) + len(liars), **sections)
    alone = without(job)
    tell(monkeypatch, liars)
    heard = Heard()
    together = run(job, out / "run", (*HONEST, *liars), heard, answer_s=60.0)
    (row,) = together.rows
    named = dict(zip(liars, lies, strict=True))
    assert set(row.device_loss) - set(row.lost) == set(HONEST), (row.lost, row.left_out, named)
    assert equal(together.adapter, alone.adapter)
    assert row.accuracy == alone.rows[0].accuracy
    for number, lie in named.items():
        told = [line for line in heard.said if f"device {number}" in line]
        assert told, f"nobody was told of device {number}: {lie}"
    return together, heard.said


def test_frames_that_are_not_due_are_the_senders_own(
    without: Callable[[Job], Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check(FRAMES, "sflora", without, monkeypatch, tmp_path)


def test_uploads_that_are_not_due_are_the_senders_own(
    without: Callable[[Job], Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check(UPLOADS, "fedlora", without, monkeypatch, tmp_path)


def test_uploads_after_split_training_are_the_senders_own(
    without: Callable[[Job], Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check({k: UPLOADS[k] for k in ("NaN", "1e30 times")}, "sflora", without, monkeypatch, tmp_path)


def test_adapters_that_devices_keep_are_read_as_strictly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lies = {name: lie for name, lie in UPLOADS.items() if "times" not in name}
    liars = {number + len(HONEST): lie for number, lie in enumerate(lies.values())}
    tell(monkeypatch, liars)
    job = job_of("local-lora", len(HONEST) + len(liars))
    found = run(job, tmp_path / "run", (*HONEST, *liars))
    assert set(found.rows[0].lost) == set(liars)
    exported = {path.name for path in (tmp_path / "run" / "adapter").iterdir()}
    assert exported == {"device-0000", "device-0001"}


COUNTS = (1, 2**20, 2**31)
LOSSES: dict[str, Lie] = {
    "NaN": message(StepDone, loss=math.nan),
    "infinity": message(StepDone, loss=math.inf),
    "beyond bounds": message(StepDone, loss=1e7),
    "below zero": message(StepDone, loss=-1e-300),
    "none": message(StepDone, loss=None),
    "another step": message(StepDone, step=2**53),
    "another round": message(StepDone, round=7),
    "again and again": Lie(repeat=9),
    "another kind": Lie(lambda m: RoundEnd(0) if isinstance(m, StepDone) else m),
    "not as many samples": message(Ready, samples=1),
    "many samples": message(Ready, samples=2**31),
    "zero samples": message(Ready, samples=0),
    "more samples than a message has room for": message(Ready, samples=2**32),
    "another job": message(Ready, job="ab"),
}


def test_losses_and_counts_that_cannot_be_are_the_senders_own(
    without: Callable[[Job], Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lies = dict(LOSSES)
    check(lies, "fedlora", without, monkeypatch, tmp_path)


@pytest.mark.parametrize("samples", COUNTS)
def test_samples_of_its_own_data_count_up_to_a_bound_and_as_far_as_they_come(
    samples: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server asks for ten times the median at most; a device that has not so many fails."""
    tell(monkeypatch, {2: message(Ready, samples=samples, own=True)})
    job = job_of("sflora", 3)
    heard = Heard()
    found = run(job, tmp_path / "run", (0, 1, 2), heard)
    assert found.rows[0].lost == [2]
    assert any("device 2 was lost" in line and "steps" in line for line in heard.said)


def test_a_part_of_each_batch_is_the_senders_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fewer(m: Any) -> Any:
        return type(m)(**{**vars(m), "hidden": m.hidden[:1], "labels": m.labels[:1]})

    tell(monkeypatch, {1: activations(fewer)})
    found = run(job_of("sflora", 2), tmp_path / "run", (0, 1))
    # The device itself fails at the gradient, which is for one sample.
    assert found.rows[0].lost == [1]


# What is finite and moves no further than training may is not told from training.
UNSHOWN: dict[str, tuple[Any, Lie]] = {
    "the same everywhere": ("tsflora", activations(lambda m: replace_hidden(m, torch.ones))),
    "the same everywhere, shared": (
        {"name": "sflora", "server_adapter": "shared"},
        activations(lambda m: replace_hidden(m, torch.ones)),
    ),
    "1e30 times, quantised": (
        {"name": "tsflora", "tokens": {"keep": 24}, "uplink": {"bits": 8}},
        activations(lambda m: replace_hidden(m, lambda shape: m.hidden * 1e30)),
    ),
    "minus ten times": ("tsflora", scaled(-10)),
    "noise": (
        "fedlora",
        adapter(lambda m: replace(m, tensors={n: t + 0.1 for n, t in m.tensors.items()})),
    ),
}


def replace_hidden(m: ActivationsMessage, make: Callable[..., torch.Tensor]) -> ActivationsMessage:
    return replace(m, hidden=make(m.hidden.shape))


@pytest.mark.parametrize("lie", UNSHOWN)
def test_what_nothing_shows_to_be_a_lie_leaves_a_run_that_ends_and_is_finite(
    lie: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    method, told = UNSHOWN[lie]
    tell(monkeypatch, {2: told})
    found = run(job_of(method, 3), tmp_path / "run", (0, 1, 2))
    row = found.rows[0]
    assert {0, 1} <= set(row.device_loss) - set(row.lost)
    assert math.isfinite(row.loss)
    assert all(torch.isfinite(tensor).all() for tensor in found.adapter.values())


PROBES: dict[str, dict[str, Lie]] = {
    "st-sflora": {
        "too short": message(Probed, importance=[0.0]),
        "none": message(Probed, importance=[]),
        "falling": Lie(
            lambda m: (
                msgspec.structs.replace(m, importance=(m.importance or [])[::-1])
                if isinstance(m, Probed)
                else m
            )
        ),
        "not numbers": message(Probed, importance=[math.nan] * 50),
        "huge": message(Probed, importance=[1e6] * 50),
        "zero": message(Probed, importance=[0.0] * 50),
        "another cut": message(Probed, cut=0),
        "another round": message(Probed, round=5),
    },
    "sflam": {
        "no spread": message(Probed, spread=0.0, mean_square=0.0),
        "denormal": message(Probed, spread=5e-324, mean_square=5e-324),
        "largest": message(Probed, spread=1e38, mean_square=1e38),
        "beyond its cohort": message(Probed, spread=9e5, mean_square=1.0),
        "not a number": message(Probed, spread=math.nan),
    },
}


@pytest.mark.parametrize("method", PROBES)
def test_probes_that_cannot_be_cost_the_sender_its_place_in_the_round(
    method: str,
    without: Callable[[Job], Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    lies = PROBES[method]
    liars = {number + len(HONEST): lie for number, lie in enumerate(lies.values())}
    job = job_of(method, len(HONEST) + len(liars), world=WORLD)
    tell(monkeypatch, liars)
    found = run(job, tmp_path / "run", (*HONEST, *liars))
    assert set(found.rows[0].decisions) <= set(HONEST)
    assert set(found.rows[0].decisions) | set(found.rows[0].left_out) >= set(HONEST)
    assert found.rows[0].lost == []


@pytest.mark.parametrize("flops", [1e3, 1e18])
@pytest.mark.parametrize("method", ["st-sflora", "sflam", "asfl", "asfv", "auto", "genfv"])
def test_the_slowest_and_the_fastest_device_there_can_be_leave_the_others_a_round(
    method: str, flops: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tell(monkeypatch, {2: message(Hello, flops_per_s=flops)})
    more = {"generated": GENERATED} if method == "genfv" else {}
    found = run(job_of(method, 3, world=WORLD, **more), tmp_path / "run", (0, 1, 2))
    row = found.rows[0]
    assert math.isfinite(row.loss)
    assert {0, 1} <= set(row.decisions) | set(row.left_out)
    assert set(row.decisions) & {0, 1}


@pytest.mark.parametrize(
    "labels",
    [[2.0**53] + [0.0] * 9, [0.0] * 10, [], [1.0] * 65536, [-0.0] * 10, [math.nan] * 10],
    ids=["huge", "zero", "none", "too many", "minus zero", "not numbers"],
)
def test_shared_labels_of_own_data_fit_its_samples(
    labels: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tell(monkeypatch, {2: message(Ready, labels=labels, own=True)})
    job = job_of("genfv", 3, world=WORLD, generated=GENERATED)
    found = run(job, tmp_path / "run", (0, 1, 2))
    assert 2 not in found.rows[0].decisions


@pytest.mark.parametrize("server_adapter", ["shared", "in-turn"])
@pytest.mark.parametrize("scale", [1e18, 1e30])
def test_an_adapter_that_all_train_stays_finite(
    server_adapter: str, scale: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def huge(m: Any) -> Any:
        return type(m)(**{**vars(m), "hidden": m.hidden * scale})

    tell(monkeypatch, {2: activations(huge)})
    method = {"name": "sflora", "server_adapter": server_adapter}
    found = run(job_of(method, 3), tmp_path / "run", (0, 1, 2))
    assert all(torch.isfinite(t).all() for t in found.adapter.values())
    assert {0, 1} <= set(found.rows[0].device_loss) - set(found.rows[0].lost)


def honest_frame() -> bytes:
    message = ActivationsMessage(2, 0, 0, torch.randn(4, 9, 8), None, torch.arange(4), 10)
    return encode_activations(message, Quantizer(bits=8))


@pytest.mark.parametrize(
    "lie", ["a gigabyte in little", "a gigabyte that says it is little", "2^93 values"]
)
def test_a_frame_that_unpacks_to_a_gigabyte_is_refused_before_it_is_unpacked(lie: str) -> None:
    edit = FRAMES[lie].activations
    assert edit is not None
    frame = edit(honest_frame())
    assert len(frame) < 50_000
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            decode_activations(frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 50_000  # of KiB


def silent(m: Message) -> Message | None:
    return None if isinstance(m, StepDone) else m


@pytest.mark.parametrize("method", ["fedlora", "sflora"])
def test_the_deadline_ends_a_round_and_who_was_done_counts(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tell(monkeypatch, {2: Lie(message=silent, activations=None)})
    heard = Heard()
    found = run(job_of(method, 3), tmp_path / "run", (0, 1, 2), heard, round_s=12.0)
    assert found.rows[0].lost == [2]
    assert set(found.rows[0].device_loss) == {0, 1}
    assert any("of the 12 s of the round" in line for line in heard.said)


def test_an_update_far_beyond_its_cohort_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tell(monkeypatch, {2: scaled(1e5)})
    heard = Heard()
    found = run(job_of("fedlora", 3), tmp_path / "run", (0, 1, 2), heard)
    assert found.rows[0].lost == [2]
    (said,) = [line for line in heard.said if "was lost" in line]
    assert "the adapter of device 2 moved by" in said
    assert "1000 times its cohort's median" in said
