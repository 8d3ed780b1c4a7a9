"""`auto` with a fitted codec: rates are calibrated, chosen, and what was sent once is known."""

from pathlib import Path

import pytest

import cutlayer
from cutlayer import calibrate, simulate
from cutlayer.errors import AllocationError, JobError
from cutlayer.job import Job, change_job
from cutlayer.planning.calibration.record import Calibration
from helpers import small_job

RATES = [0.1, 0.4, 1.5]


@pytest.fixture(scope="module")
def job() -> Job:
    return small_job(
        "data.train_samples=120",
        "method.device=frozen",
        "method.uplink={codec: klt, reuse: true}",
        f"method.allocation.rates={RATES}",
        "method.allocation.quality_min=0.8",
        "method.allocation.bytes_weight=1e-6",
        method="auto",
        world={},
    )


@pytest.fixture(scope="module")
def measured(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTLAYER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return calibrate(job, samples=32, cuts=[1, 2], tokens=[12])


@pytest.fixture(autouse=True)
def known(measured: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cutlayer.planning.calibration.statistics", "cutlayer.rounds.loop"):
        monkeypatch.setattr(f"{module}.calibration_for", lambda job, **_: measured)


def test_a_calibration_measures_what_survives_at_each_rate(measured: Calibration) -> None:
    assert measured.bits == (*RATES, 32)
    sizes = measured.bytes_per_sample[:, -1]
    assert (sizes[:, 1:] > 1.5 * sizes[:, :-1]).all()
    assert (measured.divergence[:, -1, 0] > measured.divergence[:, -1, 2]).all()
    # Frames of eight samples: within a quarter of the rate that was asked for, headers aside.
    width, tokens = 128, 50
    assert sizes[:, 2] * 8 / (width * tokens) == pytest.approx(1.5, rel=0.25)


def test_auto_chooses_rates_and_knows_what_the_server_holds(tmp_path: Path, job: Job) -> None:
    run = simulate(change_job(job, ["training.rounds=3"]), out=tmp_path / "run")
    first, _, last = run.rows
    rates = [one.rate_bits for one in first.decisions.values()]
    assert all(rate is not None and RATES[0] <= rate <= RATES[-1] for rate in rates)
    assert not any(map(sum, last.computed.values()))
    assert last.up_bytes < first.up_bytes / 20
    assert last.virtual_s is not None
    assert first.virtual_s is not None
    assert last.virtual_s < first.virtual_s / 5
    assert last.planned_s is not None
    assert last.planned_s < 2 * last.virtual_s
    assert last.accuracy_through_cut is not None


def test_a_plan_shows_the_rate_and_the_bytes_of_a_later_visit(job: Job) -> None:
    found = cutlayer.plan(job)
    assert all(RATES[0] <= row["bits"] <= RATES[-1] for row in found.rows())
    assert found.survival is not None
    assert found.survival.agreement >= 0.8
    assert any("whose samples the server holds" in line for line in found.sentences())
    assert any("some 64 samples in 4 bits" in line for line in found.sentences())


def test_rates_that_were_not_calibrated_are_refused(job: Job) -> None:
    wider = change_job(job, ["method.allocation.rates=[0.01, 2]"])
    with pytest.raises(AllocationError, match=r"0\.01 to 2 bits a value were not calibrated"):
        cutlayer.plan(wider)


def test_sflams_formula_knows_no_rates() -> None:
    job = small_job("method.uplink.codec=klt", "method.allocation.solver=sflam", world={})
    with pytest.raises(JobError, match="error of equal steps"):
        cutlayer.plan(job)
