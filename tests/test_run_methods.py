"""The methods that allocate a radio: what they decide, and that training follows the decisions."""

from pathlib import Path

import numpy as np
import pytest

from cutlayer import simulate
from cutlayer.allocate.decision import Decision
from cutlayer.errors import AllocationError, JobError
from cutlayer.job import Job, change_job
from cutlayer.planning.known.planning_input import PlanningInput, RoundDecisions
from cutlayer.record.row_lines import read_rows
from cutlayer.simulation.simulate import resume
from cutlayer.train.cohort import draw_cohort
from helpers import Simulated, equal, largest_difference, small_job
from test_run_world import StopAfter

WORLD = {"reference_loss_db": 75.0, "server_flops": 1e12}
SOLVERS = ("st-sflora", "st-sflora-full", "sflam", "asfl", "asfv", "auto")


def world_job(method: str, *settings: str, **world: object) -> Job:
    return small_job("training.rounds=1", *settings, method=method, world={**WORLD, **world})


@pytest.mark.parametrize("method", SOLVERS)
def test_a_round_takes_the_time_its_plan_reckoned_with(method: str, simulated: Simulated) -> None:
    row = simulated(world_job(method)).rows[0]
    assert row.late == []
    # zstd shortens frames, and one-way devices overlap computing and sending.
    assert row.planned_s / 2 < row.virtual_s <= row.planned_s * (1 + 1e-3)


@pytest.mark.parametrize("method", SOLVERS)
def test_bandwidth_and_power_stay_within_the_worlds(method: str, simulated: Simulated) -> None:
    row = simulated(world_job(method)).rows[0]
    assert sum(one.bandwidth_hz for one in row.decisions.values()) <= 50e6 * (1 + 1e-9)
    assert all(0 < one.power_w <= 0.2 * (1 + 1e-9) for one in row.decisions.values())


def test_frozen_devices_send_one_way_and_no_adapter_travels(simulated: Simulated) -> None:
    result = simulated(world_job("st-sflora"))
    for activations, gradients, down, up, *_ in result.rows[0].traffic.values():
        assert activations > 0
        assert gradients == down == up == 0
    trained = [k for k, t in result.adapter.items() if "lora_B" in k and t.abs().max() > 0]
    blocks = {int(name.split("layers.")[1].split(".")[0]) for name in trained}
    assert min(blocks) == 2  # what lies before the cut never moves


def test_devices_in_turn_move_the_adapter_once_for_each_batch(simulated: Simulated) -> None:
    # One device a round in turn is plain training; four give another adapter than their mean.
    alone = small_job("devices.count=1", "method.device=frozen")
    in_turn = change_job(alone, ["method.server_adapter=in-turn"])
    one, other = simulated(alone), simulated(in_turn)
    assert largest_difference(one.adapter, other.adapter) < 1e-6
    several = small_job("method.device=frozen", "method.server_adapter=shared")
    mean = simulated(several)
    moved = simulated(change_job(several, ["method.server_adapter=in-turn"]))
    assert largest_difference(mean.adapter, moved.adapter) > 1e-4


def test_different_cuts_in_one_round_average_to_what_one_cut_gives(simulated: Simulated) -> None:
    # The cut is exact, so joined and averaged adapters do not depend on where each was cut.
    cuts = "method.allocation.cuts=[4,1]"
    rates = "method.allocation.rates_bps=[0,0.7e6]"
    mixed = simulated(world_job("asfl", cuts, rates))
    plain = simulated(world_job("sflora"))
    assert {one.cut for one in mixed.rows[0].decisions.values()} == {1, 4}
    assert largest_difference(mixed.adapter, plain.adapter) < 1e-5


def test_a_faster_link_is_cut_earlier(simulated: Simulated) -> None:
    settings = ("method.allocation.cuts=[4,1]", "method.allocation.rates_bps=[0,0.7e6]")
    row = simulated(world_job("asfl", *settings)).rows[0]
    sent = {d: row.traffic[d][0] / row.samples_trained[d] for d in row.decisions}
    assert max(sent.values()) < 1.1 * min(sent.values())  # a transformer's blocks are all as wide
    early = {d for d, one in row.decisions.items() if one.cut == 1}
    assert early
    assert early != set(row.decisions)


def test_sflam_sends_the_embedding_in_few_bits(simulated: Simulated) -> None:
    row = simulated(world_job("sflam")).rows[0]
    assert {one.cut for one in row.decisions.values()} == {0}
    bits = {one.bits_up for one in row.decisions.values()}
    assert bits <= {2, 4, 8, 16, 32}
    strict = world_job("sflam", "method.allocation.error_budget=1e-6")
    finer = simulated(strict).rows[0]
    assert min(one.bits_up for one in finer.decisions.values()) > max(bits)


def test_a_tighter_quality_sends_more(simulated: Simulated) -> None:
    loose = simulated(world_job("auto", "method.allocation.quality_min=0.3"))
    tight = simulated(world_job("auto", "method.allocation.quality_min=0.99"))
    assert loose.up_bytes < tight.up_bytes
    assert loose.rows[0].virtual_s < tight.rows[0].virtual_s


def test_exact_has_no_less_ste_than_the_published_order(simulated: Simulated) -> None:
    paper = simulated(world_job("st-sflora")).rows[0]
    ours = simulated(world_job("st-sflora", "method.allocation.solver=exact")).rows[0]
    assert paper.ste <= ours.ste * (1 + 1e-9) <= ours.ste_bound * (1 + 1e-6)


def test_devices_that_cannot_be_in_time_are_left_out_and_said_to_be(simulated: Simulated) -> None:
    whole = simulated(world_job("st-sflora")).rows[0]
    row = simulated(world_job("st-sflora", deadline_s=whole.planned_s / 2)).rows[0]
    assert row.left_out
    assert all("standing time" in why for why in row.left_out.values())
    assert set(row.left_out) | set(row.decisions) == {0, 1, 2, 3}
    assert row.late == []


def test_late_devices_leave_no_trace_on_a_shared_adapter(
    simulated: Simulated, tmp_path: Path
) -> None:
    job = world_job("st-sflora-full")
    whole = simulated(job).rows[0]
    late = world_job("st-sflora-full", deadline_s=whole.virtual_s * 0.9)
    some = simulated(late)
    assert 0 < len(some.rows[0].late) < 4
    in_time = [d for d in some.rows[0].cohort if d not in some.rows[0].late]
    assert not equal(some.adapter, simulated(job).adapter)
    only = simulate(
        change_job(job, [f"method.allocation.solver={__name__}:{_only(in_time)}"]),
        out=tmp_path / "only",
    )
    assert equal(some.adapter, only.adapter)


CHOSEN: list[int] = []


def _only(devices: list[int]) -> str:
    CHOSEN[:] = devices
    return "take_chosen"


def take_chosen(now: PlanningInput) -> RoundDecisions:
    """An allocator of one's own: some devices, alike."""
    share = now.bandwidth_hz / len(CHOSEN)
    alike = Decision(now.job.cut, None, 32, 32, share, 0.2)
    return RoundDecisions({d: alike for d in now.devices if d in CHOSEN}, {})


def test_a_resumed_run_decides_as_an_uninterrupted_one(
    simulated: Simulated, tmp_path: Path
) -> None:
    job = change_job(world_job("st-sflora"), ["training.rounds=3"])
    whole = simulated(job)
    with pytest.raises(KeyboardInterrupt):
        simulate(job, out=tmp_path / "cut", progress=StopAfter())
    again = resume(tmp_path / "cut")
    assert equal(whole.adapter, again.adapter)
    assert [r.decisions for r in whole.rows] == [r.decisions for r in again.rows]


@pytest.mark.parametrize(
    ("settings", "world", "sentence"),
    [
        (["method.allocation.solver=nearest"], {}, "no solver is called 'nearest'"),
        (["method.allocation.solver=no.such:f"], {}, "cannot import 'no.such:f'"),
        (["method.order=sequential"], {}, "side by side"),
        ([], {"max_bps_per_hz": 5.0}, "is a cap that solver 'st-sflora' ignores"),
        ([], {"energy": {"cap_j": 1e-9}}, "energy_max_j of device"),
        (["method.cut=0"], {}, "leaves no block on the device"),
    ],
)
def test_impossible_allocations_are_one_sentence(
    settings: list[str], world: dict, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises((JobError, AllocationError), match=sentence):
        simulate(world_job("st-sflora", *settings, **world), out=tmp_path / "run")


def test_an_allocator_without_a_world_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="world=\\{\\}"):
        simulate(small_job(method="st-sflora"), out=tmp_path / "run")


def test_poisson_participation_draws_cohorts_of_that_mean() -> None:
    job = small_job("devices.participation=poisson", "devices.count=40", "devices.per_round=4")
    sizes = [len(draw_cohort(job, round)) for round in range(400)]
    assert min(sizes) >= 1
    assert np.mean(sizes) == pytest.approx(4, rel=0.1)
    assert np.var(sizes) == pytest.approx(4, rel=0.3)


def test_devices_that_never_took_part_are_tested_only_where_the_job_asks(tmp_path: Path) -> None:
    job = small_job("devices.per_round=2", "training.rounds=1", method="local-lora")
    row = simulate(job, out=tmp_path / "some").rows[0]
    tested = [device for device, one in enumerate(row.label_mix_accuracy) if one is not None]
    assert tested == sorted(row.cohort)
    asked = change_job(job, ["training.evaluate_absent=true"])
    other = simulate(asked, out=tmp_path / "all").rows[0]
    assert None not in other.label_mix_accuracy
    assert [other.label_mix_accuracy[device] for device in tested] == [
        row.label_mix_accuracy[device] for device in tested
    ]
    assert read_rows(tmp_path / "some")[0] == row
