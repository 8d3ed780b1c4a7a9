"""Devices that compute together: what a pool costs in calls and memory, and a compiled step."""

from pathlib import Path

import pytest
import torch

from cutlayer import simulate
from cutlayer.errors import JobError, RunError
from cutlayer.model.families import describe
from cutlayer.record.checkpoint import RunState
from cutlayer.train.cohort import pool_of
from cutlayer.train.pool_size import devices_that_fit
from cutlayer.train.server_part import ServerPart
from cutlayer.wire.codecs.quantized import QuantizedCodec
from helpers import largest_difference, moved, small_job


def test_a_pool_is_encoded_in_one_call_each_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = QuantizedCodec.encode, []

    def counted(codec: QuantizedCodec, batch, rngs=None):  # type: ignore[no-untyped-def]
        calls.append(len(batch))
        return encode(codec, batch, rngs)

    monkeypatch.setattr(QuantizedCodec, "encode", counted)
    shared = ("training.rounds=1", "training.pool=4", "training.batch_size=64")
    simulate(small_job(*shared, method="sflora"), out=tmp_path / "run")
    assert calls == [4, 4]


def test_more_memory_holds_more_devices_and_one_always() -> None:
    job = small_job()
    spec = describe(job.model)
    counts = [devices_that_fit(job, spec, 2**power) for power in range(20, 40, 2)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] > 100
    larger = small_job("training.batch_size=32")
    assert devices_that_fit(larger, spec, 2**34) < devices_that_fit(job, spec, 2**34)
    assert pool_of(small_job("training.pool=null")) == 4


@pytest.mark.parametrize(
    ("pool", "said"), [(4, "training.pool: .*4 devices .*: take 2"), (1, "training.batch_size: ")]
)
def test_memory_that_does_not_suffice_is_told_with_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: int, said: str
) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ServerPart, "take", out_of_memory)
    with pytest.raises(RunError, match=said):
        simulate(small_job(f"training.pool={pool}"), out=tmp_path / "run")


def test_a_state_goes_to_where_training_goes_on() -> None:
    one = {"w": torch.ones(2)}
    state = RunState(3, one, {4: one}, {"momentum": one}, {"basis": torch.ones(1)})
    there = state.to(torch.device("meta"))
    assert there.rounds == 3
    for adapter in (there.adapter, there.kept[4], there.moments["momentum"]):
        assert adapter["w"].device.type == "meta"
    assert there.coding["basis"].device.type == "cpu"


def test_a_compiled_step_trains_as_one_that_is_not(tmp_path: Path) -> None:
    # One device, one batch: the step after the cut is compiled for one size.
    job = ("training.rounds=1", "training.compute=cpu", "devices.count=1", "training.optimizer=sgd",
           "model.cut=5")  # fmt: skip
    data = ("data.train_samples=16", "training.batch_size=16", "training.lr=0.1")
    plain = simulate(small_job(*job, *data, method="st-sflora-full"), out=tmp_path / "plain")
    settings = (*job, *data, "training.compile=true")
    quick = simulate(small_job(*settings, method="st-sflora-full"), out=tmp_path / "compiled")
    start = simulate(
        small_job(*job, *data, "training.lr=1e-30", method="st-sflora-full"), out=tmp_path / "start"
    )
    assert moved(start.adapter, plain.adapter) > 1e-4
    assert largest_difference(plain.adapter, quick.adapter) < 1e-6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.lora.dropout=0.1"], "LoRA without dropout"),
        (["method.train=full", "method.split=false"], "LoRA without dropout"),
    ],
)
def test_what_cannot_be_compiled_is_refused(tmp_path: Path, changes: list[str], said: str) -> None:
    job = small_job("training.compile=true", "training.compute=cpu", *changes)
    with pytest.raises(JobError, match=rf"training\.compile: true but .*{said}"):
        simulate(job, out=tmp_path / "run")


def test_a_machine_without_a_compiler_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    job = small_job("training.compile=true", "training.compute=cpu")
    with pytest.raises(JobError, match=r"training\.compile: true but the C\+\+ compiler"):
        simulate(job, out=tmp_path / "run")
