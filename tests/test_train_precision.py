"""What a job computes on and in which numbers: what is not there is refused, bfloat16 is near."""

from pathlib import Path

import pytest
import torch

from cutlayer import simulate
from cutlayer.errors import JobError
from cutlayer.job import change_job
from helpers import largest_difference, moved, small_job


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "mps:0", ""])
def test_what_computes_nothing_is_refused(name: str) -> None:
    with pytest.raises(JobError, match=r"training\.compute: .*take auto, cpu, cuda, cuda:N"):
        small_job(f"training.compute={name!r}")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_hardware_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        JobError, match=rf"training\.compute: '{name}' was asked for but torch sees"
    ):
        simulate(small_job(f"training.compute={name}"), out=tmp_path / "run")


def test_a_gpu_beyond_those_there_are_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(JobError, match=r"'cuda:2' was asked for but torch sees 2 GPUs"):
        simulate(small_job("training.compute=cuda:2"), out=tmp_path / "run")


def test_tf32_is_refused_on_a_cpu(tmp_path: Path) -> None:
    job = small_job("training.precision=tf32", "training.compute=cpu")
    with pytest.raises(JobError, match=r"training\.precision: 'cpu' here has no tf32"):
        simulate(job, out=tmp_path / "run")


@pytest.mark.parametrize("method", ["sflora", "fedlora"])
def test_bfloat16_changes_what_is_trained_little(tmp_path: Path, method: str) -> None:
    job = small_job("training.rounds=1", "training.optimizer=sgd", "training.lr=0.1", method=method)
    job = change_job(job, ["training.compute=cpu", "devices.count=2", "data.train_samples=32"])
    exact = simulate(job, out=tmp_path / "float32")
    near = simulate(change_job(job, ["training.precision=bfloat16"]), out=tmp_path / "bfloat16")
    assert all(tensor.dtype == torch.float32 for tensor in near.adapter.values())
    start = simulate(change_job(job, ["training.lr=1e-30"]), out=tmp_path / "start")
    change = moved(start.adapter, exact.adapter)
    # 8 bits of mantissa round by 0.4 %; sums over blocks and steps stay well within a tenth.
    assert 0 < largest_difference(exact.adapter, near.adapter) < 0.1 * change
    assert near.rows[-1].loss == pytest.approx(exact.rows[-1].loss, rel=0.02)
    assert near.rows[-1].traffic == exact.rows[-1].traffic
