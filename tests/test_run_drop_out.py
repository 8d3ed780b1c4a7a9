"""Devices that are lost in the middle of a simulated round (devices.drop_out)."""

from pathlib import Path

import numpy as np
import pytest

import cutlayer
from cutlayer.allocate.round_shape import batch_sizes
from cutlayer.errors import JobError
from cutlayer.train.cohort import draw_drop_outs
from helpers import Simulated, equal, small_job

LOSES = ("devices.drop_out=0.5", "training.rounds=1", "seed=3")


@pytest.mark.parametrize("method", ["fedlora", "sflora", "split-lora", "local-lora", "lean"])
def test_a_round_goes_on_without_the_devices_it_loses(method: str, simulated: Simulated) -> None:
    world = {"world": {"reference_loss_db": 75.0}} if method == "lean" else {}
    job = small_job(*LOSES, method=method, **world)
    result = simulated(job)
    for row in result.rows:
        found = draw_drop_outs(job, row.round, row.cohort)
        assert sorted(row.lost) == sorted(found)
        for device, share in found.items():
            sent = row.traffic.get(device, [0] * 7)
            assert sent[3] == 0  # its adapter never comes up
            steps = len(batch_sizes(row.samples_trained[device], job.training))
            assert (device in row.device_loss) == (share * steps >= 1)
    assert any(row.lost for row in result.rows)
    assert 0 <= result.accuracy <= 1


def test_who_is_lost_belongs_to_device_and_round() -> None:
    job = small_job("devices.count=400", "devices.drop_out=0.25", "data.train_samples=3200")
    everyone = draw_drop_outs(job, 0, range(400))
    assert len(everyone) == pytest.approx(100, abs=30)
    assert all(0 <= share < 1 for share in everyone.values())
    assert np.mean(list(everyone.values())) == pytest.approx(0.5, abs=0.1)
    some = draw_drop_outs(job, 0, [7, 3, 200])
    assert some == {device: everyone[device] for device in some}
    assert draw_drop_outs(job, 1, range(400)).keys() != everyone.keys()
    assert draw_drop_outs(small_job(), 0, range(4)) == {}


def test_no_drop_out_changes_nothing_and_one_place_loses_nobody(simulated: Simulated) -> None:
    plain = simulated(small_job(method="centralized"))
    with_it = simulated(small_job("devices.drop_out=0.9", method="centralized"))
    assert equal(plain.adapter, with_it.adapter)


def test_a_secure_sum_of_too_few_survivors_loses_the_round(simulated: Simulated) -> None:
    pytest.importorskip("cryptography")
    settings = ("devices.drop_out=0.6", "privacy.secure_sum=true", "method.adapter_bits=16")
    result = simulated(small_job(*settings))
    survivors = [4 - len(draw_drop_outs(result.job, row.round, row.cohort)) for row in result.rows]
    assert min(survivors) < 3
    for row, left in zip(result.rows, survivors, strict=True):
        assert len(row.lost) == (4 if left < 3 else 4 - left)


def test_real_devices_are_not_made_to_drop_out(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"devices\.drop_out: 0\.5 but real devices are lost"):
        cutlayer.serve(small_job(*LOSES), out=tmp_path / "run")
    with pytest.raises(JobError, match=r"devices\.drop_out"):
        cutlayer.make_job({"devices": {"drop_out": 1.0}})
