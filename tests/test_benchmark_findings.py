"""What a report says it found is computed: from contrary figures it states the contrary."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = [ROOT / name for name in ("benchmarks", "publications")]
FOLDER = FOLDERS[0]
TYPED = re.compile(
    r"\d (?:points|times)\b|\b(?:faster|slower|better|worse|hurts|hardly|far less|far more)\b"
)
"""What a template cannot know before the figures are there."""


@pytest.fixture(autouse=True, scope="module")
def _benchmarks_on_the_path() -> Iterator[None]:
    sys.path[:0] = [str(ROOT), str(FOLDER)]
    yield
    for folder in (ROOT, FOLDER):
        sys.path.remove(str(folder))


def benchmark(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in FOLDERS for path in folder.rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_template_of_a_report_states_a_finding(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "{" in node.value:
            said = re.sub(r"\{[^{}]*\}", "", node.value)
            assert not TYPED.search(" ".join(said.split())), said


def figures_on_pages() -> list[tuple[str, str]]:
    """Pages with a block of figures, and the report that each block is from."""
    mark = re.compile(r"<!-- figures of (\S+): begin -->")
    return [
        (str(page.relative_to(ROOT)), report)
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
        for report in mark.findall(page.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("page", "report"), figures_on_pages())
def test_figures_on_a_page_are_those_of_its_report(page: str, report: str) -> None:
    block_of = benchmark("shared_blocks").block_of
    texts = ((ROOT / page), (FOLDER / "reports" / report))
    there, here = (block_of(report, path.read_text(encoding="utf-8")) for path in texts)
    assert there == here
    assert len(here.splitlines()) > 2


def line(accuracy: float, **more: Any) -> dict[str, Any]:
    figures = {"served": accuracy, "lr": 1e-3, "seconds": 10.0, "bytes": 1e6, "visits": 100}
    figures["joules"] = 5.0
    return {"accuracy": accuracy, **figures, **more}


def runs(accuracies: dict[tuple[str, str], float], **more: Any) -> dict[Any, Any]:
    """Two seeds each, a tenth of a point apart, so that every difference is told from 0.

    swing: what a line gains from one seed to the next for each letter of its name, so that no
    difference is the same with both. by: which parts of the name, by default both.
    """
    swing, by = more.pop("swing", 0.0), more.pop("by", slice(None))
    return {
        cell: {
            seed: line(value + seed / 1000 + swing * seed * len("".join(cell[by])), **more)
            for seed in (0, 1)
        }
        for cell, value in accuracies.items()
    }


def fair_says(accuracies: dict[tuple[str, str], float], **more: Any) -> str:
    probes = {seed: {"accuracy": 0.6, "samples": 10} for seed in (0, 1)}
    tried = more.pop("tried", ())
    module, found = benchmark("fair_findings"), runs(accuracies, **more)
    return "\n".join(module.findings(found, probes, [1e-4, 1e-3, 1e-2], tried))


CENTRAL = ("central, all blocks", "")
BY_RULE = {
    ("equal", "averaged"): 0.5,
    ("lean", "averaged"): 0.51,
    ("equal", "in-turn"): 0.7,
    ("lean", "in-turn"): 0.71,
    CENTRAL: 0.8,
}
BY_ALLOCATION = {
    ("equal", "averaged"): 0.7,
    ("lean", "averaged"): 0.5,
    ("equal", "in-turn"): 0.69,
    ("lean", "in-turn"): 0.49,
    CENTRAL: 0.6,
}


def test_the_fair_table_says_which_of_rule_and_allocation_decides() -> None:
    rule, allocation = fair_says(BY_RULE), fair_says(BY_ALLOCATION)
    assert "decided more by the server adapter" in rule
    assert "decided more by the allocation" in allocation
    assert "no difference of either kind is told from 0" in fair_says(BY_RULE, swing=0.2)
    unsure = fair_says(BY_RULE, swing=0.2, by=slice(1, 2))
    assert "differences of allocation are told from 0, none of server adapter is" in unsure
    assert "2 of these 2 differences are gains, and none is a loss" in rule
    assert "none of these 2 differences is a gain, and 2 are losses" in allocation
    assert "none of these 2 differences can be told from 0" in fair_says(BY_RULE, swing=0.2)
    assert "2 of 4 lines end above where it began" in rule
    assert "none of 4 lines ends above where it began" in fair_says(dict.fromkeys(BY_RULE, 0.3))
    assert "a server adapter trained in turn in place of a shared server adapter" in fair_says(
        BY_RULE | {("equal", "shared"): 0.4}
    )
    cut = fair_says(BY_RULE | {("auto", "averaged"): 0.9, ("auto", "in-turn"): 0.99})
    assert "best such allocation (`lean`)" in cut  # not one that trains other blocks
    assert "one that may choose another cut" in cut
    assert "points above training in one place" in allocation
    assert "points below training in one place" in rule


def test_the_fair_table_says_where_rates_end_and_what_serving_loses() -> None:
    assert "between the smallest and the largest tried" in fair_says(BY_RULE)
    assert "with the largest (0.01) 5 of 5 lines do" in fair_says(BY_RULE, lr=1e-2)
    assert "none of 5 lines does best" in fair_says(BY_RULE, lr=1e-2)
    assert "4 of 4 lines lose at most one point" in fair_says(BY_RULE)
    assert "none of 4 lines loses at most one point" in fair_says(BY_RULE, served=0.3)
    beyond = [(("equal", "in-turn"), 0.1, 0.6, 0.5), (CENTRAL, 0.1, 0.4, 0.5)]
    said = fair_says(BY_RULE, tried=beyond)
    assert "Rates outside this range were tried too: 1 of 2 lines does better with them" in said
    assert "(`equal`, in turn at 0.1: 60.0 % on held-out samples, 50.0 % at its own rate; " in said
    assert "outside this range" not in fair_says(BY_RULE)


def test_rates_that_were_tried_beyond_a_tables_own_are_told_of_its_lines(tmp_path: Path) -> None:
    module, file = benchmark("fair_lines"), tmp_path / "lines.jsonl"
    for rule, rate, right in (("shared", 0.1, 0.5), ("shared", 0.2, 0.6), ("averaged", 0.1, 0.5)):
        tried = {"allocation": "equal", "rule": rule, "seed": module.TUNING_SEED, "lr": rate}
        module.Lines({}, file).append({**tried, "held_out_accuracy": right})
    lines, beyond = module.Lines({}, file), benchmark("fair_report").tried_beyond
    assert beyond(lines, [("equal", "shared")], [0.1]) == [(("equal", "shared"), 0.2, 0.6, 0.5)]
    assert beyond(lines, [("equal", "averaged")], [0.1]) == []
    assert beyond(lines, [("equal", "shared")], [0.1, 0.2]) == []


def test_a_printed_command_names_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--model", str(tmp_path), "word", f"--runs={tmp_path}", "--only-report"]
    words += ["--seeds", "0"]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--set", f"a.path={tmp_path}", "b=1"])
    said = benchmark("environment").command("benchmarks/fair.py")
    assert said == (
        "python benchmarks/fair.py --model DINOV2 word --runs=DIR --seeds 0 "
        f"--set a.path={tmp_path.name} b=1"
    )


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((1, 0, 4), "1 of these 4 differences is a gain, and none is a loss"),
        ((0, 1, 4), "none of these 4 differences is a gain, and 1 is a loss"),
        ((1, 0, 1), "this difference is a gain"),
        ((0, 1, 1), "this difference is a loss"),
        ((0, 0, 1), "this difference cannot be told from 0"),
    ],
)
def test_the_fair_table_counts_sure_differences_in_plain_english(
    counts: tuple[int, int, int], sentence: str
) -> None:
    said = benchmark("fair_findings").surely(*counts)
    assert said == f"With 95 % confidence {sentence}."


def test_the_readme_shows_what_the_fair_tables_report_has() -> None:
    assert ("README.md", "fair.md") in figures_on_pages()


def test_generated_data_is_said_to_gain_or_not() -> None:
    def says(whole: list[float], some: list[float]) -> str:
        rows = [
            {"line": "genfv, none generated", "gain": [], "seconds": [10.0]},
            {"line": "genfv", "gain": some, "seconds": [10.0]},
            {"line": "genfv, mix whole", "gain": whole, "seconds": [12.0 + whole[0] / 10]},
        ]
        return "\n".join(benchmark("generated_findings").findings("here", rows))

    one, other = [19.0, 20.0, 21.0], [-7.0, -8.0, -9.0]
    assert "1 of these 2 differences is a gain, and 1 is a loss" in says(one, other)
    assert "`genfv, mix whole` +20.0 (+17.5 to +22.5)" in says(one, other)
    assert "gains 28.0 points more" in says(one, other)
    unsure = says([-30.0, 1.0, 2.0], other)
    assert "none of these 2 differences is a gain, and 1 is a loss" in unsure
    assert "`genfv, mix whole` -9.0 (-54.2 to +36.2, not told from 0)" in unsure
    assert "gains 1.0 points less" in unsure
    assert "`genfv` -8.0 (one seed)" in says([20.0], [-8.0])
    assert "none of these 2 differences can be told from 0" in says([20.0], [-8.0])
    assert "by 4 s at most" in says([20.0], [-8.0])


def levers_say(power: float, half: float, bandwidth: float, tokens: float) -> str:
    levers = benchmark("benchmarks.fidelity.levers")
    kept = f"tokens: K = {benchmark('benchmarks.fidelity.setting').TOKENS_MIN}"
    losses = {
        "power: p_max": power, "power: p_max / 2": half, "bandwidth: equal shares": bandwidth,
        levers.BEST_COMMON: tokens, kept: tokens,
    }  # fmt: skip
    found = {
        solver: {name: np.array([loss, loss, np.nan]) for name, loss in losses.items()}
        for solver in ("exact", "published")
    }
    return "\n".join(claim.measured for claim in levers.claims_of(found, found))


def test_the_order_of_the_levers_holds_or_does_not() -> None:
    in_order = levers_say(0.0, 0.01, 0.1, 0.3)
    assert in_order.startswith("holds for `exact`")
    assert "\nholds: at p_max / 2" in in_order
    assert "less than by equal shares" in in_order
    assert "infeasible in 1 of 3 draws" in in_order
    other = levers_say(0.2, 0.4, 0.1, 0.3)
    assert other.startswith("does not hold for `exact`")
    assert "\ndoes not hold: at p_max / 2" in other
    assert "more than by equal shares" in other


def test_the_levers_are_frozen_one_by_one_on_a_small_problem() -> None:
    levers, module = (benchmark(f"benchmarks.fidelity.{name}") for name in ("levers", "setting"))
    rows = np.cumsum(np.sort(np.random.default_rng(0).random((4, 197)))[:, ::-1], axis=1)
    problem, _ = module.problem(0, rows)
    free = levers.at_tokens(problem, problem.tokens_min)
    assert 0 < levers.best_at_equal_shares(free) <= levers.best_at_equal_shares(problem)
    assert 0 < levers.alternate_at_equal_shares(problem) <= levers.best_at_equal_shares(problem)


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        (30.0, "holds"),
        (16.0, "does not hold"),
        (4.0, "does not hold in the mean (in 0 of 2 draws it does)"),
    ],
)
def test_tokens_are_said_to_grow_if_they_do(last: float, verdict: str) -> None:
    budgets = benchmark("benchmarks.fidelity.budgets")
    tokens = np.array([[16.0, 16.0], [(16 + last) / 2] * 2, [last, last]])
    found = {name: (tokens, np.ones((3, 2))) for name in budgets.SOLVERS}
    for claim in budgets.claims_of(found, found):
        assert claim.measured.startswith(verdict)


def peers_say(**rounds: tuple[float, float, float]) -> str:
    """By framework, seconds of a round, of the first round, and the loss it ends at."""
    report, runs = benchmark("peers_report"), benchmark("peer_runs")
    measured = []
    for name, (round_s, first_s, loss) in rounds.items():
        taken = runs.Taken(first_s, first_s, (round_s,), (round_s,), 1e8, (loss,), 2e6, 1e6)
        measured.append(report.Measured(name, 100, [taken]))
    return "\n".join(report.findings("here", measured))


def test_the_peers_report_says_which_goals_are_reached() -> None:
    good = peers_say(flower=(10.0, 40.0, 1.0), pfl=(1.1, 8.0, 1.0), cutlayer=(1.0, 4.0, 2.0))
    bad = peers_say(flower=(2.0, 6.0, 1.0), pfl=(0.9, 8.0, 1.5), cutlayer=(1.0, 12.0, 2.0))
    assert "cutlayer trains 10.00 times the samples a second of Flower simulation (Ray)" in good
    assert (
        "after the first round the goal, 5 times, is reached by the clock and reached by processor"
        in good
    )
    assert "the goal, 1 times, is reached" in good
    assert "first round ends 10.0 times as early, its last 10.0 times as early" in good
    assert "ends 4.0 s after its process began, within the 10 s" in good
    assert "they did the same work" in good
    assert "the goal, 5 times, is not reached" in bad
    assert "the goal, 1 times, is not reached" in bad
    assert "ends 12.0 s after its process began, not within the 10 s" in bad
    assert "they did not do the same work" in bad


def test_the_peers_report_says_what_comes_of_computing_frozen_blocks_once() -> None:
    said = peers_say(peft=(3.0, 8.0, 1.0), cutlayer=(1.0, 4.0, 2.0), cutlayer_again=(2.5, 4.0, 2.0))
    assert "cutlayer trains 3.00 times the samples a second of transformers + PEFT" in said
    assert "and not at every visit, makes cutlayer 2.50 times as fast" in said


def test_a_framework_that_fails_is_named_with_the_reason(tmp_path: Path) -> None:
    report, runs = benchmark("peers_report"), benchmark("peer_runs")
    missing = report.Measured("pfl", 100, [], "pip said: no")
    said = list(report.findings("here", [missing]))
    assert said == ["here: pfl-research is not measured: pip said: no."]
    assert missing.row == {"framework": "pfl-research"}
    with pytest.raises(runs.PeerError, match=r"ended with status 1: .*nowhere\.json"):
        runs.run("cutlayer", sys.executable, tmp_path / "nowhere.json", 60.0)
    with pytest.raises(runs.PeerError, match="not done after 0 s"):
        runs.run("cutlayer", sys.executable, tmp_path / "nowhere.json", 0.0)


def controls_say(devices: float, both: float, generated: float) -> str:
    values = {
        "devices alone": devices,
        "devices and generated images": both,
        "generated images alone": generated,
        "generated images alone, seen once": generated - 0.1,
    }
    found = {name: {s: value + s / 1000 for s in range(3)} for name, value in values.items()}
    found["devices alone"][0] += 0.001
    return "\n".join(benchmark("controls_findings").findings(found))


def test_the_controls_say_what_devices_add_to_generated_images() -> None:
    add, take = controls_say(0.6, 0.75, 0.7), controls_say(0.6, 0.65, 0.7)
    assert "trained on in every round: +5.0 points" in add
    assert "end at 75.1 %, above the best" in add
    assert "trained on in every round: -5.0 points" in take
    assert "end at 65.1 %, not above the best" in take
    assert "told from 0" in add
    assert "not told from 0" in controls_say(0.75, 0.75, 0.7)


@pytest.mark.parametrize("fewer", [80.0, 50.0])
def test_the_goal_both_ways_is_said_to_be_reached_or_not(fewer: float) -> None:
    module = benchmark("both_ways")

    def case(name: str, accuracy: list[float], ratio: float) -> dict[str, Any]:
        ratios = {f"{key}_ratio": [ratio] * 3 for key in ("up", "visit", "total")}
        return {"case": name, "accuracy": accuracy, **ratios}

    whole = case(module.FLOAT32, [0.7, 0.71, 0.72], 1)
    alike, worse = case("alike", [0.71, 0.7, 0.72], fewer), case("worse", [0.6, 0.61, 0.62], fewer)
    said = list(module.findings({"The demo: so many images": [whole, alike, worse]}))
    reached = "is reached" if fewer > module.GOAL else "is not reached"
    assert all(reached in line for line in said)
    assert "seeds do not tell it from 0" in said[0]
    assert "-10.0 points" in said[1]
    assert "more than that of seeds" in said[1]


@pytest.mark.parametrize("finest", [0.08, 0.3])
def test_photographs_are_said_to_reach_the_goal_or_not(finest: float) -> None:
    module = benchmark("photographs")
    lines = [
        {
            "kind": kind,
            "cut": cut,
            "codec": codec,
            "bits": share * rate,
            "bytes": share * 6000.0,
            "ratio": 64 / (share * rate),
            "headers": 0.01,
            "error": error,
        }
        for kind in (module.SMALL_IMAGES, module.PHOTOGRAPHS, module.HALF)
        for cut in module.CUTS
        for codec, share in ((module.KLT, 1.0), (module.SPATIAL, 0.8))
        for rate, error in ((0.5, finest), (0.25, 0.4))
    ]
    said = "\n".join(module.findings(lines))
    assert ("is reached for photographs, 224 px, cut 2" in said) == (finest < module.ERROR)
    assert ("is reached for photographs, 224 px, half" in said) == (finest < module.ERROR)
    assert ("do not enclose an error of 15 %" in said) == (finest > module.ERROR)
    gain = "Transforming patches together takes 20 % fewer bits"
    assert (gain in said) == (finest < module.ERROR)
    assert "at most 1.0 % of a photograph's bytes" in said


def rate_line(case: str, accuracy: float, fewer: float, **more: Any) -> dict[str, Any]:
    line = {
        "data": "cifar10", "cut": 4, "case": case, "seeds": [0], "accuracy": [accuracy],
        "through_cut": [accuracy], "lost": [0.9 - accuracy], "visit_ratio": fewer,
        "ten_ratio": 4 * fewer, "total_ratio": fewer, "total": 1e6 / fewer, "wire": 0.04,
        "precision": "float32",
    }  # fmt: skip
    return line | more


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.895, "reached"), (0.88, "not reached")])
def test_the_rates_are_said_to_reach_their_goals_or_not(accuracy: float, verdict: str) -> None:
    lines = [rate_line("float32", 0.9, 2), rate_line("klt 0.22", accuracy, 260)]
    said = list(benchmark("rate_findings").findings(lines))
    for goal in ("250 times fewer bytes a visit", "1,000 times fewer bytes over ten visits"):
        (one,) = [sentence for sentence in said if f"goal of {goal}" in sentence]
        assert f" {verdict}: klt 0.22 (cifar10, cut 4, 1 seed)" in one
        assert f"as exported, loses {100 * (0.9 - accuracy):.1f} points" in one
        assert "One seed does not show" in one


@pytest.mark.parametrize(
    ("lost", "verdict"), [([0.004, 0.005, 0.004], "is"), ([0.0, 0.01], "is not")]
)
def test_a_goal_that_is_reached_in_the_mean_is_said_to_be_shown_or_not(
    lost: list[float], verdict: str
) -> None:
    found = rate_line("klt 0.22", 0.895, 260, lost=lost, through_cut=[0.88])
    said = "\n".join(benchmark("rate_findings").findings([rate_line("float32", 0.9, 2), found]))
    assert f"at most a point {verdict} shown" in said
    assert "is reached in the mean of the seeds" in said
    assert "fall on the test images too, it loses" in said


def test_a_rate_that_gains_is_not_said_to_lose() -> None:
    lines = [rate_line("float32", 0.9, 2), rate_line("klt 0.22", 0.91, 260)]
    lines[1]["through_cut"] = [0.88]
    said = "\n".join(benchmark("rate_findings").findings(lines))
    assert "as exported, gains 1.0 points" in said
    assert said.count("loses") == said.count("too, it loses 2.0 points") == 2


@pytest.mark.parametrize(("wire", "verdict"), [(0.04, "within"), (0.06, "above")])
def test_what_the_wire_takes_is_held_against_its_goal(wire: float, verdict: str) -> None:
    lines = [rate_line("float32", 0.9, 2), rate_line("klt 0.22", 0.9, 260, wire=wire)]
    said = "\n".join(benchmark("rate_findings").findings(lines))
    assert f"{100 * wire:.1f} % of a training step in float32" in said
    assert f"{verdict} the goal of 5 %" in said
    once = rate_line("klt 0.4, sent once", 0.9, 500, wire=0.2)
    assert "20.0 %" not in "\n".join(benchmark("rate_findings").findings([*lines, once]))


@pytest.mark.parametrize(("exported", "served"), [(4.02, 4.2), (4.2, 4.02)])
def test_language_models_are_compared_as_exported_and_as_served(
    exported: float, served: float
) -> None:
    reference = {"name": "frozen, float32", "perplexity": 4.0}
    line = {"perplexity": exported, "served": served}
    said = benchmark("language_report").compared(line, reference)
    verdicts = {4.02: "+0.50 % {}, within 1 %", 4.2: "+5.00 % {}, not within 1 %"}
    assert verdicts[exported].format("as exported") in said
    assert verdicts[served].format("through the cut") in said


@pytest.mark.parametrize("what", ["known tokens", "weighted"])
def test_what_a_setting_brings_is_said_of_lines_that_differ_in_it_alone(what: str) -> None:
    line = {
        "perplexity": 4.0, "served": 4.4, "visit": 8.0, "bases": 10.0, "ratio": None,
        "over_text": None,
    }  # fmt: skip
    plain = line | {"name": "frozen, klt 0.42"}
    other = line | {"name": f"frozen, klt 0.42, {what}", "perplexity": 3.0, "bases": 15.0}
    findings = benchmark("language_report").findings
    (said, *_) = findings([plain, other], 16.0, 256)
    assert f"differs in {what}" in said
    assert "perplexity -25.0 % as exported, +0.0 % through the cut" in said
    assert "bytes of a visit +0.0 %, of bases +50.0 %" in said
    assert len(findings([other], 16.0, 256)) == 1


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ((0.001, 0.002, 0.0015), "more perplexity is shown"),
        ((0.03, 0.031, 0.032), "more perplexity is ruled out"),
        ((-0.02, 0.03, 0.0), "more perplexity is not shown"),
    ],
)
def test_a_language_models_loss_over_seeds_is_judged_by_its_interval(
    more: tuple[float, ...], verdict: str
) -> None:
    said = benchmark("language_report").spread(dict(enumerate(more)))
    assert said.endswith(verdict)
    assert f"{100 * more[1]:+.2f} %" in said


def language_line(name: str, seed: int, perplexity: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "seed": seed,
        "perplexity": perplexity,
        "served": None,
        "where": "here",
    } | more


def test_a_language_report_has_the_whole_runs_of_one_seed_and_compares_those_of_all(
    tmp_path: Path,
) -> None:
    scale = {
        "pairs": 8, "own": 4, "visits": 5, "tests": 4, "batch": 4, "cut": 2, "lr": 0.01,
        "schedule": "cosine", "precision": "float32", "texts": 0,
    }  # fmt: skip
    bytes_of = {
        "through": None, "accuracy": 0.5, "up": 8e5, "down": None, "features": None,
        "answers": None, "visit": 8e5, "all": 4e6, "text": 1e3, "bases": 0.0, "seconds": 10.0,
        "memory": 1e6, "rank": 8, "blocks": 3, "width": 10, "bleu": None,
    }  # fmt: skip
    float32, klt, known = "frozen, float32", "frozen, klt 0.42", "frozen, klt 0.42, known tokens"
    lines = benchmark("run_lines").RunLines(scale, tmp_path / "lines.jsonl")
    for line in (
        language_line(float32, 0, 4.0),
        language_line(klt, 0, 4.4),
        language_line(float32, 1, 9.0),
        language_line("before training", 1, 16.0),
        language_line(float32, 1, 5.0, **bytes_of),
        language_line(klt, 1, 5.1, **bytes_of | {"visit": 1e4, "all": 1.6e4}),
    ):
        lines.append(line)
    again = benchmark("run_lines").RunLines(scale, tmp_path / "lines.jsonl")
    report = benchmark("language_report").page(again, 1, [float32, klt, known], "language.md")
    assert "left out: *frozen, klt 0.42, known tokens*." in report
    assert "and no bytes: 0." in report
    assert "160 times fewer bytes a visit" in report
    assert "+10.00 %, +2.00 % with seeds 0, 1; in the mean +6.00 %" in report
    with pytest.raises(SystemExit, match="0 has no finished run"):
        benchmark("language_report").page(again, 0, [float32, klt], "language.md")


@pytest.mark.parametrize(
    ("known", "told"), [((3.8, 3.81, 3.79), "is told from 0"), ((3.8, 4.2, 4.0), "is not told")]
)
def test_what_known_tokens_bring_over_seeds_is_judged_by_its_interval(
    tmp_path: Path, known: tuple[float, ...], told: str
) -> None:
    lines = benchmark("run_lines").RunLines({}, tmp_path / "lines.jsonl")
    names = ["frozen, klt 1", "frozen, klt 1, known tokens"]
    for seed, perplexity in enumerate(known):
        lines.append(language_line(names[0], seed, 4.0, served=4.0))
        lines.append(language_line(names[1], seed, perplexity, served=perplexity))
    said = benchmark("language_report").alone(lines, names)
    assert len(said) == 2
    assert all(f"a difference {told}" in sentence for sentence in said)
