"""A run over the ranks of torchrun is that of one process, and ends in one sentence."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch

from cutlayer import simulate
from cutlayer.allocate.decision import Decision
from cutlayer.errors import JobError, RunError
from cutlayer.job import Job, dump_job
from cutlayer.model.families import describe
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from cutlayer.simulation.parcel import Parcel
from cutlayer.simulation.ranks import Ranks, joined_ranks
from cutlayer.simulation.sharded_fleet import RankWorker
from cutlayer.simulation.shards import shard, why_one_chain
from cutlayer.simulation.simulate import resume
from cutlayer.simulation.spread_runs import run_on_ranks
from cutlayer.simulation.workers import Run
from cutlayer.train import noise
from helpers import equal, largest_difference, small_job

SMALL = ("data.train_samples=60", "data.test_samples=20", "data.partition.min_samples=6")


class RanksHere:
    """Ranks of this process: what they are asked they answer one after another."""

    def __init__(self, count: int) -> None:
        self.count, self.rank, self.at_work = count, 0, True
        self.others = [_Numbered(number) for number in range(1, count)]
        self._workers = [RankWorker(cast(Ranks, one)) for one in self.others]

    def ask(self, request: Parcel, own: Callable[[], Parcel]) -> list[Parcel]:
        sent = Parcel.unpack(request.pack())
        answers = [own(), *(worker.answer(sent) for worker in self._workers)]
        return [Parcel.unpack(answer.pack()) for answer in answers]

    def use(self, job: Job) -> str:
        return "cpu"

    def stop(self) -> None:
        self.at_work = False


class _Numbered:
    def __init__(self, rank: int) -> None:
        self.rank, self.kind = rank, "cpu"

    def use(self, job: Job) -> str:
        return self.kind


def ranks(count: int) -> Ranks:
    return cast(Ranks, RanksHere(count))


def untimed(rows: Sequence[Row]) -> list[dict[str, object]]:
    """What rows say besides how long it took."""
    return [{**vars(row), "seconds": None, "cpu_seconds": None} for row in rows]


JOBS = {
    "sflora": small_job(*SMALL, "training.pool=2", "devices.count=6"),
    "at times fewer devices than ranks": small_job(
        *SMALL,
        "devices.per_round=3",
        "devices.participation=poisson",
        "training.rounds=3",
        "seed=2",
        method="tsflora",
    ),
    "last blocks on devices": small_job(
        *SMALL, "training.pool=2", "devices.count=6", "model.tail=1"
    ),
    "secure sum": small_job(
        *SMALL,
        "training.pool=2",
        "devices.count=6",
        "privacy.secure_sum=true",
        "method.adapter_bits=16",
    ),
    "robust averages": small_job(
        *SMALL,
        "training.pool=2",
        "devices.count=6",
        "trust={average: trimmed-mean, hostile: 2, clip_to_median: 1.0, clip_activations: 7}",
    ),
    "noise": small_job(
        *SMALL, "training.pool=2", "privacy={label_noise: 0.3, activation_noise: 0.1}"
    ),
    "drop-outs": small_job(*SMALL, "training.pool=1", "devices.count=6", "devices.drop_out=0.5"),
    "fedlora": small_job(*SMALL, "training.pool=2", method="fedlora"),
    "local-lora": small_job(*SMALL, "devices.per_round=3", method="local-lora"),
    "several cuts": small_job(
        *SMALL,
        "training.pool=2",
        "method.allocation.cuts=[4,1]",
        "method.allocation.rates_bps=[0,0.7e6]",
        method="asfl",
        world={"reference_loss_db": 75.0, "server_flops": 1e12},
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_three_ranks_do_what_one_does_to_the_last_bit(name: str, tmp_path: Path) -> None:
    job = JOBS[name]
    if job.sums_securely:
        pytest.importorskip("cryptography")
    one = simulate(job, out=tmp_path / "one")
    three = simulate(job, out=tmp_path / "three", ranks=ranks(3))
    assert equal(one.adapter, three.adapter)
    assert untimed(one.rows) == untimed(three.rows)
    assert bool(one.rows[0].clipped_tokens) == (job.trust.clip_activations is not None)
    if job.method.aggregate == "none":
        files = sorted(p.relative_to(one.folder) for p in one.folder.rglob("*.safetensors"))
        assert len(files) > 3
        for file in files:
            assert (one.folder / file).read_bytes() == (three.folder / file).read_bytes()


def test_ranks_draw_noise_from_the_secret_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_secret", 1)
    job = small_job(*SMALL, "privacy.label_noise=0.3")
    request = Parcel({"job": job.model_dump(mode="json"), "noise": 2})
    RankWorker(cast(Ranks, _Numbered(1))).answer(request)
    assert noise.noise_seed(job) == 2


def test_a_pool_larger_than_a_ranks_part_changes_rounding_only(tmp_path: Path) -> None:
    job = small_job(*SMALL, "training.pool=4", "training.rounds=1")
    one = simulate(job, out=tmp_path / "one")
    two = simulate(job, out=tmp_path / "two", ranks=ranks(2))
    assert largest_difference(one.adapter, two.adapter) < 1e-5


@pytest.mark.parametrize(
    "method", ["centralized", "split-lora", "st-sflora", "lean", "sflam", "asfl"]
)
def test_methods_that_are_one_chain_have_a_reason(method: str) -> None:
    job = small_job(method=method)
    reason = why_one_chain(job, describe(job.model))
    assert (reason is None) == (method == "asfl")


def test_one_chain_runs_on_rank_0_and_lets_the_others_go(tmp_path: Path) -> None:
    job = small_job(*SMALL, "training.rounds=1", "devices.count=2", method="st-sflora", world={})
    alone = ranks(2)
    result = simulate(job, out=tmp_path / "run", ranks=alone)
    assert not alone.at_work
    assert len(result.rows) == 1


def test_pools_stay_whole_and_the_costliest_are_spread_first() -> None:
    job = small_job()
    spec = describe(job.model)
    decisions = {device: Decision(2) for device in (5, 3, 8, 1, 4, 7)}
    samples = {5: 10, 3: 90, 8: 30, 1: 80, 4: 20, 7: 40}
    parts, order = shard(job, spec, decisions, samples, 2, 2)
    assert order == [3, 1, 7, 8, 4, 5]
    # 170 samples on one rank; 70 and 30 on the other, each in the order of the decisions.
    assert parts == [[3, 1], [5, 8, 4, 7]]
    few, _ = shard(job, spec, decisions, samples, 6, 2)
    assert sorted(map(len, few)) == [1] * 6
    decisions[5] = Decision(4)
    mixed, order = shard(job, spec, decisions, samples, 3, 2)
    assert sorted(order) == sorted(decisions)
    assert sorted(device for part in mixed for device in part) == sorted(decisions)


def test_more_ranks_than_devices_or_runs_are_refused(tmp_path: Path) -> None:
    job = small_job(*SMALL, "devices.per_round=2")
    with pytest.raises(JobError, match="3 ranks but a round has 2 devices: start --nproc-per"):
        simulate(job, out=tmp_path / "run", ranks=ranks(3))
    assert not (tmp_path / "run").exists()
    with pytest.raises(JobError, match="3 ranks but 1 runs"):
        run_on_ranks([Run(job, tmp_path / "run")], ranks(3), print)


def test_ranks_with_and_without_a_gpu_are_refused(tmp_path: Path) -> None:
    mixed = RanksHere(3)
    mixed.others[1].kind = "cuda"
    with pytest.raises(RunError, match="ranks compute on cpu, cpu, cuda, in their order"):
        simulate(small_job(*SMALL), out=tmp_path / "run", ranks=cast(Ranks, mixed))


@pytest.mark.parametrize("value", ["two", "", "-1", "9" * 40])
def test_an_environment_without_numbers_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(JobError, match=r"WORLD_SIZE: .* is no number of ranks"), joined_ranks():
        pass


@pytest.mark.parametrize("damage", [b"", b"\x05", b"\xff" * 40, b"\x02" + bytes(7) + b"{}" + b"x"])
def test_bytes_that_are_no_parcel_are_refused(damage: bytes) -> None:
    with pytest.raises(RunError, match="no parcel of cutlayer's"):
        Parcel.unpack(damage)
    tensors = {"a": torch.arange(6, dtype=torch.bfloat16).view(2, 3).T}
    again = Parcel.unpack(Parcel({"x": [1, None]}, tensors).pack())
    assert again.values == {"x": [1, None]}
    assert torch.equal(again.tensors["a"], tensors["a"])


def start(count: int, *arguments: object) -> list["subprocess.Popen[str]"]:
    """Processes as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "cutlayer", *map(str, arguments)],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip


def test_a_rank_that_dies_ends_the_others_and_the_run_goes_on(tmp_path: Path) -> None:
    job = small_job(*SMALL, "training.rounds=10000", "training.pool=2")
    file, folder = tmp_path / "job.yaml", tmp_path / "run"
    file.write_text(dump_job(job))
    first, second = start(2, "simulate", file, "--out", folder)
    try:
        while first.poll() is None and not (folder / "state.safetensors").exists():
            time.sleep(0.05)
        second.send_signal(signal.SIGKILL)
        _, why = first.communicate(timeout=120)
    finally:
        first.kill()
        second.kill()
    assert first.returncode == 2, why
    assert "cutlayer: torchrun: rank 0 waited for another rank" in why
    assert "go on with cutlayer simulate --resume" in why
    assert "Traceback" not in why
    assert second.communicate()[0] == ""  # rank 0 alone prints
    done = len(read_rows(folder))
    went_on = resume(folder, rounds=done + 1)
    whole = simulate(small_job(*SMALL, f"training.rounds={done + 1}", "training.pool=2"),
                     out=tmp_path / "whole")  # fmt: skip
    assert equal(went_on.adapter, whole.adapter)


def test_processes_compare_and_what_fails_on_one_is_said_by_rank_0(tmp_path: Path) -> None:
    job = small_job(*SMALL, "training.rounds=1", "devices.count=2")
    file, folder = tmp_path / "job.yaml", tmp_path / "both"
    file.write_text(dump_job(job))
    bad = "sflora, fedlora, asfl"  # asfl wants a world
    ended = [p.communicate(timeout=120) for p in start(2, "compare", file, "--methods", bad)]
    assert "method.allocation.solver: 'asfl' allocates a radio" in ended[0][1]
    assert ended[1] == ("", "")
    methods = ("--methods", "sflora, fedlora", "--out", folder)
    ended = [p.communicate(timeout=120) for p in start(2, "compare", file, *methods)]
    assert "2 runs on 2 ranks" in ended[0][0]
    assert ended[1][0] == ""
    assert (folder / "comparison.md").is_file()
    alone = simulate(job, out=tmp_path / "alone")
    made = (folder / "sflora" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert made == (alone.adapter_folder / "adapter_model.safetensors").read_bytes()
