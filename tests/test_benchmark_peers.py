"""The frameworks that cutlayer is compared with are given the work that cutlayer does."""

import argparse
import importlib
from pathlib import Path

import pytest

from cutlayer.job import load_job
from cutlayer.train.parts import first_adapter, load_parts

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize("blocks", [None, 2])
def test_the_frameworks_train_what_cutlayer_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int | None
) -> None:
    pytest.importorskip("peft", reason="peft, with which the frameworks train, is not installed")
    for folder in (BENCHMARKS, BENCHMARKS / "peer_work"):
        monkeypatch.syspath_prepend(folder)
    peers, work = importlib.import_module("peers"), importlib.import_module("work")
    task = next(task for task in peers.TASKS if task.blocks == blocks)
    values = peers.job_of(task, argparse.Namespace(model=None, data=None))
    files = peers.write_work(values, tmp_path)
    job = load_job(files[peers.OURS])
    ours = first_adapter(job, load_parts(job).model)
    given = work.Work.read(files["others"])
    theirs = work.trained(given.make_model())
    assert sorted(one.numel() for one in ours.values()) == sorted(
        one.numel() for one in theirs.values()
    )
    pixels, labels = given.device(job.devices.count - 1)
    assert (len(pixels), len(labels)) == (task.samples, task.samples)
    if blocks is not None:
        again = load_job(files[peers.AGAIN])
        uplink = again.method.uplink.model_copy(update={"reuse": True})
        method = again.method.model_copy(update={"uplink": uplink})
        assert again.model_copy(update={"method": method}) == job
