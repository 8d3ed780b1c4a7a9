"""GenFV on its world: who takes part and why not, and that all are done at once."""

import re
from pathlib import Path

import numpy as np
import pytest

from cutlayer import simulate
from cutlayer.drawing.selection_plot import selection
from cutlayer.errors import AllocationError, WorldError
from cutlayer.job import Job
from cutlayer.planning.plan import plan
from generated_helpers import GENERATED, WORLD, quick_job, stripes  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("stripes")


def vehicles(*settings: str, **world: object) -> Job:
    return quick_job(
        "data.partition.alpha=0.3",
        *settings,
        method="genfv",
        generated=GENERATED,
        world={**WORLD, **world},
    )


def test_vehicles_finish_together_as_planned(tmp_path: Path) -> None:
    row = simulate(vehicles(), out=tmp_path / "run").rows[0]
    assert row.late == []
    assert row.virtual_s == pytest.approx(row.planned_s, rel=1e-3)
    equal = simulate(vehicles("method.allocation.solver=equal"), out=tmp_path / "equal").rows[0]
    assert row.virtual_s < equal.virtual_s
    assert sum(one.bandwidth_hz for one in row.decisions.values()) == pytest.approx(50e6)


def test_labels_too_far_from_all_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    row = simulate(vehicles("method.allocation.emd_max=0.8"), out=tmp_path / "run").rows[0]
    assert row.left_out
    assert row.decisions
    for reason in row.left_out.values():
        found = re.match(
            r"label mix: its labels differ from all labels by an EMD of ([\d.]+), ", reason
        )
        assert found
        assert float(found[1]) > 0.8


def test_who_would_drive_away_is_left_out_and_nobody_comes_too_late(tmp_path: Path) -> None:
    job = vehicles("devices.count=6", "method.allocation.emd_max=2", max_stay_s=1.9)
    row = simulate(job, out=tmp_path / "run").rows[0]
    assert {reason.split(":")[0] for reason in row.left_out.values()} <= {"stay time", "band"}
    assert row.left_out
    assert row.decisions
    assert row.late == []
    assert row.virtual_s <= 1.9


def test_nobody_waits_for_a_broadcast_that_lets_all_drive_away() -> None:
    # Reaching the farthest of four takes much of the half minute that anybody stays.
    fleet = {"min_distance_m": 5.0, "max_distance_m": 2000.0}
    job = vehicles(fleet=fleet, fading="none", max_stay_s=30.0, coverage_m=5000.0)
    found = plan(job).decided
    assert found.decisions
    assert "weak link" in {reason.split(":")[0] for reason in found.left_out.values()}


def test_labels_shared_by_nobody_are_near_enough_in_a_plan() -> None:
    found = plan(vehicles("method.allocation.emd_max=0"))
    assert len(found.decided.decisions) == 4


def test_nobody_near_enough_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        AllocationError, match=r"no device can take part in round 1: device \d: label mix: its"
    ):
        simulate(vehicles("method.allocation.emd_max=0"), out=tmp_path / "run")


def test_an_empty_pool_of_vehicles_in_coverage_is_one_sentence(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{t},{m},{900 + 30 * t},0,30" for m in range(4) for t in (0, 500)]
    trace.write_text("\n".join(["time_s,device,x_m,y_m,speed_mps", *rows]))
    job = vehicles(mobility={"kind": "trace", "path": str(trace)})
    with pytest.raises(WorldError, match=r"900 m from the server.*widen the coverage"):
        simulate(job, out=tmp_path / "run")


@pytest.mark.usefixtures("figures")
def test_who_is_out_of_coverage_is_in_the_record_and_the_picture(tmp_path: Path) -> None:
    job = vehicles(coverage_m=300)
    result = simulate(job, out=tmp_path / "run")
    row = result.rows[0]
    away = [device for device, reason in row.left_out.items() if reason == "out of coverage"]
    assert away
    assert set(away) | set(row.decisions) | set(row.left_out) == {0, 1, 2, 3}
    grid = selection(result.rows, 4)
    assert [grid.kinds[i] for i in grid.cells[np.array(away), 0]] == ["out of coverage"] * len(away)
    assert (tmp_path / "run" / "figures" / "selection.png").stat().st_size > 5000


def test_vehicles_of_the_bundled_trace_leave_coverage_and_come_back(tmp_path: Path) -> None:
    few = ("devices.count=20", "data.train_samples=80", "data.partition.min_samples=2")
    mobility = {"kind": "trace", "path": "demo", "stay": "straight", "start_s": 30.0}
    job = vehicles(*few, "training.rounds=3", "method.allocation.emd_max=2", mobility=mobility)
    result = simulate(job, out=tmp_path / "run")
    away = [{d for d, why in r.left_out.items() if why == "out of coverage"} for r in result.rows]
    assert all(0 < len(gone) < 20 for gone in away)
    assert all(row.late == [] for row in result.rows)
    assert {tuple(sorted(gone)) for gone in away} != {tuple(sorted(away[0]))}
