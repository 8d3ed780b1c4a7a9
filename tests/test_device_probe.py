"""`join --probe` on a device with torch: what a batch takes, measured as in a round of the job."""

from pathlib import Path

import pytest

pytest.importorskip("grpc")

from cutlayer.network.device.torch_measure import measure
from cutlayer.train.parts import load_parts, make_device
from fleet_helpers import crowd, served
from helpers import language_job, small_job
from tiny_models import write_language


@pytest.mark.parametrize("method", ["sflora", "tsflora", "fedlora", "st-sflora-full", "lean"])
def test_a_batch_is_measured_for_every_kind_of_method(method: str) -> None:
    job = small_job("devices.count=2", method=method)
    found = measure(make_device(job, load_parts(job), 1))
    assert found.samples == job.training.batch_size
    assert found.batch_s > 0
    assert found.peak_bytes > 50e6
    assert found.gpu_bytes is None
    assert f"a batch of {found.samples}" in found.line


@pytest.mark.parametrize("tail", [0, 1])
def test_last_blocks_are_measured_too(tmp_path: Path, tail: int) -> None:
    table = tmp_path / "pairs.jsonl"
    table.write_text('{"prompt": "name :", "completion": "a dingo"}\n' * 24)
    job = language_job(write_language(tmp_path / "model"), table, f"model.tail={tail}", rounds=1)
    assert measure(make_device(job, load_parts(job), 0)).batch_s > 0


def test_a_device_measures_itself_and_leaves_its_place_to_others(tmp_path: Path) -> None:
    job = small_job("training.rounds=1", "devices.count=2", method="sflora")
    with crowd() as devices:

        def bring(port: int) -> None:
            devices.join(port, 0, probe=True)
            devices.join(port, 1)

        found = served(job, tmp_path / "run", bring, devices=1)
    assert devices.errors == {}
    assert list(found.rows[0].traffic) == [1]
    assert any("samples a second" in line for line in devices.said)
