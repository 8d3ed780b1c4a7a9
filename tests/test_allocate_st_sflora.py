"""The paper's alternating solver: its steps, and how it stalls."""

import numpy as np
import pytest

from allocate_cases import token_problem
from cutlayer.allocate.relaxed import least_time
from cutlayer.allocate.st_sflora import solve
from cutlayer.allocate.token_problem import violations


def test_in_the_papers_order_the_tokens_never_leave_their_start() -> None:
    for start in (4, 20, 100):
        ended = solve(token_problem(1, 10, 196, tokens_min=4), start=start)
        assert ended.status == "stalled"
        assert ended.plan is not None
        assert (ended.plan.tokens == start).all()
        assert "never left" in ended.reason


def test_with_tokens_before_bandwidth_the_better_links_fill_up_within_five_loops() -> None:
    problem = token_problem(1, 10, 196, tokens_min=4)
    ended = solve(problem, order="power-tokens-bandwidth")
    assert ended.status == "settled"
    assert ended.loops < 5
    assert ended.plan is not None
    assert ended.plan.tokens.min() == 4
    assert ended.plan.tokens[np.argmax(problem.gain)] == ended.plan.tokens.max() > 4
    assert violations(problem, ended.plan) == []


def test_settled_uploads_end_together_and_use_the_whole_band() -> None:
    ended = solve(token_problem(2, 8, 50))
    assert ended.plan is not None
    assert np.allclose(ended.plan.time_s, ended.plan.round_time_s, rtol=1e-9)
    assert ended.plan.bandwidth_hz.sum() == pytest.approx(40e6, rel=1e-9)
    assert ended.ste_history[-1] == ended.plan.ste


def test_power_is_the_largest_the_energy_cap_allows() -> None:
    free = solve(token_problem(3, 5, 20))
    assert free.plan is not None
    assert np.allclose(free.plan.power_w, 0.2)
    capped_problem = token_problem(3, 5, 20, energy_max_j=free.plan.energy_j * 0.7)
    capped = solve(capped_problem)
    assert capped.plan is not None
    assert (capped.plan.power_w < 0.2).all()
    assert np.allclose(capped.plan.energy_j, capped_problem.energy_max_j, rtol=1e-6)


def test_an_infeasible_start_is_reported_and_not_hidden() -> None:
    # Equal shares do not serve the far device in time; unequal ones would.
    problem = token_problem(0, 4, 20, gain=np.array([1e-7, 1e-7, 1e-7, 5e-13]), time_max_s=1.0)
    ended = solve(problem, start=8)
    assert least_time(problem, np.full((1, 4), 8))[0] <= 0.5
    assert ended.status == "infeasible"
    assert ended.plan is None
    assert "device 3" in ended.reason
    assert ended.loops == 1
    poor = solve(token_problem(0, 2, 20, energy_max_j=1e-9))
    assert poor.status == "infeasible"
    assert "energy_max_j" in poor.reason
