"""Generated data in a run: how it joins, what it weighs, and that it never makes a round longer."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cutlayer
from cutlayer import simulate
from cutlayer.allocate.decision import Decision
from cutlayer.allocate.genfv import generated_amount
from cutlayer.allocate.round_shape import RoundShape, Traffic
from cutlayer.errors import CutlayerError, JobError
from cutlayer.job import Job, change_job, dump_job, load_job
from cutlayer.model.families import describe
from cutlayer.planning.known.method_costs import round_costs
from cutlayer.planning.virtual_clock import VirtualClock
from cutlayer.train.generated import Participants
from generated_helpers import GENERATED, WORLD, quick_job, stripes  # noqa: F401 - a fixture
from helpers import equal, largest_difference
from test_run_world import StopAfter

pytestmark = pytest.mark.usefixtures("stripes")
SPLIT = ("sflora", "tsflora", "split-lora", "st-sflora", "sflam", "asfl", "asfv", "auto")


def nothing(now: Participants) -> float:
    return 0.0


def everything(now: Participants) -> float:
    return 1.0


def a_quarter(now: Participants) -> float:
    assert len(now.distances) == len(now.samples) == 4
    assert now.generated == 24
    return 0.25


def too_much(now: Participants) -> float:
    return 1.5


def weighed_by(policy: str, *more: str, method: str = "genfl", **sections: object) -> Job:
    weight = f"generated.weight={__name__}:{policy}"
    return quick_job(weight, *more, method=method, generated=GENERATED, **sections)


def test_the_average_is_k1_of_the_devices_and_k2_of_the_server(tmp_path: Path) -> None:
    fed = simulate(quick_job(method="fedlora"), out=tmp_path / "fed")
    none, all_, some = (
        simulate(weighed_by(name), out=tmp_path / name).adapter
        for name in ("nothing", "everything", "a_quarter")
    )
    assert equal(fed.adapter, none)
    blend = {name: 0.75 * none[name] + 0.25 * all_[name] for name in none}
    assert largest_difference(some, blend) < 1e-6
    assert largest_difference(none, all_) > 1e-3


def test_beside_a_cut_the_server_trains_the_same_whole_model(tmp_path: Path) -> None:
    # The cut is exact, and nothing that the server does itself is compressed.
    whole = simulate(weighed_by("everything"), out=tmp_path / "whole").adapter
    cut = simulate(weighed_by("everything", method="tsflora"), out=tmp_path / "cut").adapter
    assert largest_difference(whole, cut) < 1e-6


def test_what_is_frozen_on_devices_is_frozen_on_generated_data(tmp_path: Path) -> None:
    adapter = simulate(
        weighed_by("everything", method="st-sflora", world=WORLD), out=tmp_path / "run"
    ).adapter
    moved = {name for name, t in adapter.items() if "lora_B" in name and t.abs().max() > 0}
    assert {int(name.split("layers.")[1].split(".")[0]) for name in moved} == {2, 3, 4, 5}


@pytest.mark.parametrize("method", SPLIT)
def test_with_every_split_method_nothing_but_the_adapter_changes(
    method: str, tmp_path: Path
) -> None:
    job = quick_job(method=method, generated=GENERATED, world=WORLD)
    without = simulate(change_job(job, ["method.generated=false"]), out=tmp_path / "without")
    with_it = simulate(job, out=tmp_path / "with")
    one, other = without.rows[0], with_it.rows[0]
    assert other.generated is not None
    assert one.generated is None
    assert sum(other.generated) == 24
    assert 0 < other.generated_weight < 1
    for name in ("decisions", "traffic", "joules", "virtual_s", "late", "device_loss"):
        assert getattr(one, name) == getattr(other, name), name
    assert not equal(without.adapter, with_it.adapter)
    spec = describe(job.model)
    more = round_costs(job, spec, [other]).server_flops - round_costs(job, spec, [one]).server_flops
    assert more > 24 * 1e6


def test_the_server_counts_its_own_flops_where_it_has_no_other(tmp_path: Path) -> None:
    job = quick_job(method="genfl", generated=GENERATED)
    row, spec = simulate(job, out=tmp_path / "run").rows[0], describe(job.model)
    costs = round_costs(job, spec, [row])
    each = costs.device_flops * len(row.samples_trained) / sum(row.samples_trained.values())
    assert costs.server_flops == pytest.approx(24 * each)


def test_a_resumed_run_goes_on_with_the_measured_time_of_an_image(tmp_path: Path) -> None:
    job = quick_job("training.rounds=3", method="genfl", generated=GENERATED, world=WORLD)
    job = change_job(job, ["generated.seconds_per_image=null", "generated.share_epsilon=0.5"])
    whole = simulate(job, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        simulate(job, out=tmp_path / "cut", progress=StopAfter())
    again = cutlayer.resume(tmp_path / "cut")
    assert {row.generated_image_s for row in again.rows} == {0.125}
    assert equal(whole.adapter, again.adapter)
    assert [r.generated for r in whole.rows] == [r.generated for r in again.rows]


def test_a_slower_generator_draws_fewer_images_and_no_longer_round(tmp_path: Path) -> None:
    rows = {}
    for seconds in (0.0, 0.3, 1e6):
        job = quick_job(method="genfv", generated=GENERATED, world=WORLD)
        job = change_job(job, [f"generated.seconds_per_image={seconds}", "generated.amount=100"])
        rows[seconds] = simulate(job, out=tmp_path / str(seconds)).rows[0]
    assert sum(rows[0.0].generated) == 100
    assert 0 < sum(rows[0.3].generated) < 100
    assert sum(rows[1e6].generated) == 0
    assert rows[1e6].generated_loss is None
    assert len({row.virtual_s for row in rows.values()}) == 1
    # Idle time is filled: one image more would not fit.
    assert rows[0.3].virtual_s - rows[0.3].generated_s < 0.32


def random_round(rng: np.random.Generator, job: Job) -> RoundShape:
    """A round such as training leaves it, of devices that sent and trained any amount.

    Each has a cut of its own where the method's allocator chooses cuts.
    """
    width = 50e6 / 4
    cuts = (1, 2, 4) if job.method.allocation.solver in ("asfl", "asfv", "auto") else (2,)
    decisions = {
        int(d): Decision(
            int(rng.choice(cuts)),
            None,
            32,
            32,
            width * rng.uniform(0.01, 1),
            rng.uniform(0.01, 0.2),
        )
        for d in rng.permutation(4)[: rng.integers(1, 5)]
    }
    batches, traffic = {}, {}
    for device in decisions:
        batches[device] = tuple(rng.integers(1, 9, rng.integers(1, 12)).tolist())
        sent = int(10 ** rng.uniform(3, 7)) if job.method.split else 0
        back = sent if job.method.device == "trained" else 0
        adapter = int(10 ** rng.uniform(3, 6)) if job.method.device == "trained" else 0
        traffic[device] = Traffic(sent, back, adapter, adapter)
    return RoundShape(int(rng.integers(100)), decisions, batches, traffic)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    method=st.sampled_from(["genfl", "genfv", *SPLIT]),
    train=st.sampled_from(["lora", "full"]),
    server_flops=st.sampled_from([None, 1e9, 1e11, 1e13]),
    deadline_s=st.sampled_from([None, 0.1, 3.0]),
    image_s=st.floats(0, 5),
)
def test_generation_makes_no_round_longer(
    seed: int,
    method: str,
    train: str,
    server_flops: float | None,
    deadline_s: float | None,
    image_s: float,
) -> None:
    world = {**WORLD, "server_flops": server_flops, "deadline_s": deadline_s}
    settings = [f"method.train={train}"] if method in ("genfl", "genfv", "sflora") else []
    job = quick_job(*settings, method=method, generated=GENERATED, world=world)
    clock = VirtualClock(job, describe(job.model))
    shape = random_round(np.random.default_rng(seed), job)
    before = clock.timeline(shape).duration_s
    training_s = clock.generated_training_s(shape)
    amount = generated_amount(clock.idle_s(shape), image_s, training_s, 10**4)

    def closed(images: int) -> float:
        return VirtualClock(job, describe(job.model)).close(shape, images * (image_s + training_s))[
            0
        ]

    assert closed(amount) == before
    if amount < 10**4:  # and it is the server's idle time that is filled
        assert closed(amount + 2) > before


def test_a_job_with_generated_data_is_the_same_read_back(tmp_path: Path) -> None:
    job = quick_job(method="genfv", generated=GENERATED, world=WORLD)
    (tmp_path / "job.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "job.yaml") == job
    assert job.generated_in_use == job.generated
    assert change_job(job, ["method.name=local-lora"]).generated_in_use is None


@pytest.mark.parametrize(
    ("method", "generated", "more", "sentence"),
    [
        ("sflora", {}, [], r"generated: generator is missing: name what draws the images"),
        (
            "sflora",
            {"generator": {"source": "folder"}},
            [],
            r"generated\.generator: path is missing",
        ),
        (
            "sflora",
            {**GENERATED, "share_epsilon": 0},
            [],
            r"generated\.share_epsilon: 0 will not do",
        ),
        ("sflora", {**GENERATED, "weight": "all"}, [], "no policy is called 'all'"),
        ("sflora", {**GENERATED, "weight": "no.such:f"}, [], "cannot import 'no.such:f'"),
        ("sflora", {**GENERATED, "weight": f"{__name__}:SPLIT"}, [], "is not a function"),
        (
            "sflora",
            {**GENERATED, "weight": f"{__name__}:too_much"},
            [],
            r"gave 1\.5: let it give 0",
        ),
        ("genfl", None, [], "the job has no generated section: add one"),
        ("local-lora", GENERATED, ["method.generated=true"], "has no average"),
        ("centralized", GENERATED, ["method.generated=true"], "has no average"),
    ],
)
def test_what_cannot_be_generated_for_is_one_sentence(
    method: str, generated: dict | None, more: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=sentence):
        simulate(quick_job(*more, method=method, generated=generated), out=tmp_path / "run")


def test_nothing_is_generated_for_texts(tmp_path: Path) -> None:
    import tiny_models

    tiny_models.write(tmp_path / "bert", "bert")
    job = quick_job(
        method="sflora",
        generated=GENERATED,
        model={"path": str(tmp_path / "bert"), "cut": 1, "max_tokens": 12},
    )
    with pytest.raises(CutlayerError, match="reads texts, and generators draw images"):
        simulate(job, out=tmp_path / "run")
