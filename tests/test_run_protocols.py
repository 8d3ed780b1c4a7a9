"""What a comparison tells beside accuracy: within a budget, to a target, with drop-outs."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cutlayer
from cutlayer.drawing.curves import Curve
from cutlayer.errors import JobError
from cutlayer.simulation.protocols import Protocols, columns_of, parse_budgets, protocol_rows
from helpers import small_job

FEW = ("data.train_samples=60", "data.test_samples=20", "devices.count=3")
POINTS = st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=8)


def test_a_comparison_tells_costs_and_qualities_of_the_runs(tmp_path: Path) -> None:
    found = cutlayer.compare(
        small_job(*FEW, world={"reference_loss_db": 75.0}),
        methods=["sflora", "tsflora tokens.keep=12"],
        target=0.01,
        budgets={"megabytes": 1e6, "seconds": 1e-9},
        out=tmp_path / "compared",
    )
    for row, result in zip(found.rows, found.results, strict=True):
        first = result.rows[0]
        assert row["within_bytes"] == max(one.accuracy for one in result.rows)
        assert row["within_s"] is None
        assert row["to_target_bytes"] == pytest.approx(first.up_bytes + first.down_bytes)
        assert row["to_target_s"] == pytest.approx(first.virtual_s)
        assert row["to_target_j"] == pytest.approx(sum(first.joules.values()))
    text = (tmp_path / "compared" / "comparison.md").read_text()
    assert "within 1e+06 MB (%)" in text
    assert "to 1.0 % (J)" in text
    assert "With devices that drop out" not in text


def test_left_to_itself_a_comparison_asks_what_every_run_can_answer(tmp_path: Path) -> None:
    job = small_job(*FEW, "training.rounds=1")
    methods = ["sflora", "tsflora tokens.keep=12"]
    found = cutlayer.compare(job, methods=methods, out=tmp_path / "compared")
    totals = [row["total"] for row in found.rows]
    assert found.protocols.target == min(result.accuracy for result in found.results)
    assert found.protocols.budgets == {"megabytes": pytest.approx(min(totals) / 1e6)}
    assert [row["to_target_bytes"] for row in found.rows] == pytest.approx(totals)
    shown = [column.header for column in columns_of(found.protocols, found.rows)]
    assert len(shown) == 3  # without a world there are neither seconds nor joules
    assert found.rows[0]["within_bytes"] is None  # its first test came after more bytes


def test_each_method_is_run_with_drop_outs_too(tmp_path: Path) -> None:
    methods = ["sflora", "centralized"]
    job = small_job(*FEW, "training.rounds=1")
    found = cutlayer.compare(
        job, methods=methods, seeds=[0, 1], drop_out=0.6, out=tmp_path / "compared"
    )
    assert found.labels == ["sflora", "sflora drop-out", "centralized"]
    assert any(row.lost for result in found.lines[1].results for row in result.rows)
    text = (tmp_path / "compared" / "comparison.md").read_text()
    section = text.split("With devices that drop out")[1]
    (line,) = [one for one in section.splitlines() if one.startswith("| sflora ")]
    cells = [cell.strip() for cell in line.split("|")]
    accuracies = [100 * sum(found.lines[at].accuracy.values()) / 2 for at in (0, 1)]
    assert cells[4].startswith(f"{accuracies[0]:.1f}")
    assert cells[5].startswith(f"{accuracies[1]:.1f}")
    assert float(cells[6]) == pytest.approx(accuracies[1] - accuracies[0], abs=0.06)
    assert "drop-out" not in found.finding
    with pytest.raises(JobError, match=r"--budget: seconds and joules are those of a world"):
        cutlayer.compare(job, methods=methods, budgets={"seconds": 2.0}, out=tmp_path / "again")
    lossy = small_job(*FEW, "devices.drop_out=0.2")
    with pytest.raises(JobError, match=r"devices\.drop_out 0\.2 already"):
        cutlayer.compare(lossy, methods=methods, drop_out=0.6, out=tmp_path / "again")


@given(POINTS, st.floats(0, 60))
def test_the_best_within_a_budget_is_of_a_round_that_it_pays_for(
    points: list[tuple[float, float]], budget: float
) -> None:
    spent = [sum(cost for cost, _ in points[: at + 1]) for at in range(len(points))]
    accuracy = [value for _, value in points]
    curve = Curve(range(1, len(points) + 1), accuracy, spent)
    found = curve.best_within(budget, "megabytes")
    paid = [value for so_far, value in zip(spent, accuracy, strict=True) if so_far <= budget]
    assert found == (max(paid) if paid else None)
    if found is not None:
        reached = curve.amount_at(found, "megabytes")
        assert reached is not None
        assert reached <= budget


def test_a_mean_is_told_only_where_every_seed_has_a_value() -> None:
    rows = [{"method": "mine", "to_target_s": [1.0, None], "accuracy": [0.5, 0.6]}]
    assert protocol_rows(rows) == [{"method": "mine", "to_target_s": None, "accuracy": [0.5, 0.6]}]


def test_budgets_are_read_with_their_units() -> None:
    assert parse_budgets(["5 MB", "2 min", "3 Wh"]) == {
        "megabytes": 5.0, "seconds": 120.0, "joules": 10800.0,
    }  # fmt: skip
    for texts in (["5"], ["5 Hz"], ["much"], ["1 s", "2 s"]):
        with pytest.raises(JobError, match="--budget: "):
            parse_budgets(texts)


@pytest.mark.parametrize("target", [-0.1, 70.0, math.nan])
def test_a_target_is_a_fraction(target: float) -> None:
    with pytest.raises(JobError, match="--target: "):
        Protocols(target)
    for budget in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(JobError, match="--budget: "):
            Protocols(None, {"joules": budget})
