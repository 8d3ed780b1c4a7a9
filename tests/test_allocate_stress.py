"""The exact solver where it is hardest: alike or unequal devices, flat or cut-off attention."""

import warnings

import numpy as np
import pytest

from allocate_cases import curves, token_problem
from cutlayer.allocate import exact
from cutlayer.allocate.token_problem import TokenProblem, obstacles, violations

KINDS = ("alike", "same curves", "flat", "in two pieces", "unequal links", "plain")


def hard_problem(seed: int) -> TokenProblem:
    """3 to 16 devices whose stays and energies are near what an equal share takes."""
    rng = np.random.default_rng([seed, 2])
    M, N = int(rng.integers(3, 17)), int(rng.choice([8, 49, 196]))
    kind = KINDS[seed % len(KINDS)]
    least = min(int(rng.choice([1, 4, 16, 64])), N // 2)
    importance = curves(rng, M, N, float(rng.choice([0.05, 1, 100, 1e4])))
    gain = token_problem(seed, M, N).gain
    line = np.linspace(0, 64, N + 1)
    if kind in ("alike", "same curves"):
        importance = np.tile(importance[:1], (M, 1))
    if kind == "flat":
        importance = np.tile(line, (M, 1))
    if kind == "in two pieces":
        importance = np.tile(np.minimum(3 * line, 40 + 24 / 64 * line), (M, 1))
    if kind in ("alike", "flat"):
        gain = np.full(M, np.median(gain))
    if kind == "unequal links":
        gain = 10 ** rng.uniform(-14, -5, M)
    changes = {"tokens_min": least, "gain": gain, "importance": importance}
    easy = token_problem(seed, M, N, **changes)  # type: ignore[arg-type]
    share = easy.bandwidth_total_hz / M
    payload = easy.payload_bits(rng.integers(least, N + 1, M))
    time = payload / (share * np.log2(1 + 0.2 * easy.gain_over_noise / share))
    tight, width = rng.uniform(0.3, 5), float(rng.choice([0, 0.1, 1]))
    changes["time_max_s"] = 0.5 + time * rng.lognormal(np.log(1.5 * tight), width, M)
    changes["energy_max_j"] = 0.2 * time * rng.lognormal(np.log(tight), width, M)
    return token_problem(seed, M, N, **changes)  # type: ignore[arg-type]


def solve_hard(seeds: range, monkeypatch: pytest.MonkeyPatch) -> int:
    """Search and close, never enumerate; the number of instances that have a solution."""
    asked: list[int] = []
    survivors = exact.survivors

    def counted(*given: object) -> object:
        asked.append(1)
        return survivors(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(exact, "ENUMERATE", 0)
    monkeypatch.setattr(exact, "survivors", counted)
    solved = 0
    for seed in seeds:
        problem = hard_problem(seed)
        if obstacles(problem):
            continue
        asked.clear()
        found = exact.solve(problem)
        assert len(asked) <= exact.PIECES
        assert violations(problem, found.plan) == []
        assert 0 <= found.gap < 0.2
        solved += 1
    return solved


def test_hard_instances_end_within_the_bound_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    assert solve_hard(range(24), monkeypatch) > 5


@pytest.mark.slow
def test_two_thousand_hard_instances_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert solve_hard(range(2000), monkeypatch) > 500


def test_tokens_without_importance_are_left_out_and_no_warning_is_raised() -> None:
    ends_early = np.tile(np.minimum(16.0 * np.arange(197), 64.0), (6, 1))
    for least in (1, 16):
        problem = token_problem(
            3,
            6,
            196,
            tokens_min=least,
            importance=ends_early,
            time_max_s=0.5 + np.geomspace(2, 9, 6),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = exact.solve(problem)
        assert found.gap == 0
        assert found.plan.tokens.max() == max(least, 4)
