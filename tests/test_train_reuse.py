"""Samples that are sent once and then named: the same result in fewer bytes, seconds and joules."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cutlayer
from cutlayer import simulate
from cutlayer.allocate.decision import Decision
from cutlayer.errors import FrameError, JobError
from cutlayer.job import Job
from cutlayer.planning.plan_totals import totals_of
from cutlayer.train.exchange import ACTIVATIONS
from cutlayer.train.opening import Opening
from cutlayer.train.parts import first_adapter, load_parts, make_device, make_server
from cutlayer.train.pool import Pool
from cutlayer.train.sample_cache import SampleCache, SentSample, setting_of
from cutlayer.train.server_part import PoolStep
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.wire import frame
from cutlayer.wire.headers import HeldHeader, VisitHeader
from cutlayer.wire.visit import Held, Visit, decode_held, decode_visit, encode_held, encode_visit
from helpers import equal, small_job
from test_run_simulate import Heard, StopAfter, without_times


def lean_job(*changes: str, **sections: object) -> Job:
    frozen = ["method.device=frozen", "method.server_adapter=shared", "training.rounds=3"]
    more = ("data.train_samples=120", "method.uplink.codec=klt")  # a basis takes 64 of them
    return small_job(*frozen, *more, *changes, **sections)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> cutlayer.Result:
    """A run that names what was sent."""
    return simulate(lean_job(world={}), out=tmp_path_factory.mktemp("once") / "run")


def test_what_is_named_trains_as_what_is_sent_again(tmp_path: Path, once: cutlayer.Result) -> None:
    again = simulate(lean_job("method.uplink.reuse=false", world={}), out=tmp_path / "run")
    assert equal(once.adapter, again.adapter)
    assert [row.accuracy for row in once.rows] == [row.accuracy for row in again.rows]
    assert once.rows[2].up_bytes < again.rows[2].up_bytes / 20
    assert once.rows[2].down_bytes < 4 * 100


def test_a_later_visit_takes_next_to_no_time_and_energy(once: cutlayer.Result) -> None:
    first, _, third = once.rows
    assert first.computed[0] == [8, 8, 8, 2][: len(first.computed[0])]
    assert all(not any(sizes) for sizes in third.computed.values())
    assert third.virtual_s is not None
    assert first.virtual_s is not None
    assert third.virtual_s < first.virtual_s / 5
    assert sum(third.joules.values()) < sum(first.joules.values()) / 20


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_plan_knows_that_a_sample_is_sent_once(once: cutlayer.Result, epochs: int) -> None:
    job = lean_job(f"training.local_epochs={epochs}", world={})
    found = cutlayer.plan(job)
    assert found.later_bytes is not None
    named = sum(row.up_bytes for row in once.rows[2:])
    assert named / 2 < found.later_bytes / epochs < 2 * named
    assert found.sent_bytes > 20 * found.later_bytes / epochs
    totals = totals_of(job)
    assert totals.sent_bytes == pytest.approx(found.sent_bytes + 2 * found.later_bytes)
    assert "a sample is sent once" in " ".join(found.sentences())
    first, _, third = once.rows
    assert third.planned_s is not None
    assert first.planned_s is not None
    assert third.planned_s < first.planned_s / 5


def test_whole_floats_are_named_as_well(tmp_path: Path) -> None:
    # One sample a pass: in larger ones the last bits of a sample may hang on its place.
    alone = ("training.batch_size=1", "training.pool=1", "data.train_samples=40")
    job = lean_job("method.uplink.codec=quantize", "training.rounds=2", *alone)
    once = simulate(job, out=tmp_path / "once")
    again = simulate(cutlayer.change_job(job, ["method.uplink.reuse=false"]), out=tmp_path / "run")
    assert equal(once.adapter, again.adapter)
    assert once.rows[1].up_bytes < again.rows[1].up_bytes / 500


def test_of_an_augmented_sample_each_version_is_sent_once(tmp_path: Path) -> None:
    versions = [
        "training.image_augmentation=[flip, crop]",
        "training.rounds=4",
        "method.uplink.variants=2",
    ]
    once = simulate(lean_job(*versions, world={}), out=tmp_path / "once")
    again = lean_job(*versions, "method.uplink.reuse=false")
    assert equal(once.adapter, simulate(again, out=tmp_path / "again").adapter)
    sent = [sum(map(sum, row.computed.values())) for row in once.rows]
    assert sent[0] == 120
    assert 0 < sent[3] < 60  # most versions were drawn before
    assert once.rows[0].planned_s == pytest.approx(once.rows[3].planned_s, rel=0.5)


@pytest.mark.parametrize("lost", [False, True])
def test_a_resumed_server_keeps_its_samples_or_asks_again_and_says_which(
    tmp_path: Path, once: cutlayer.Result, lost: bool
) -> None:
    with pytest.raises(KeyboardInterrupt):
        simulate(lean_job(world={}), out=tmp_path / "cut", progress=StopAfter(2))
    if lost:
        path = tmp_path / "cut" / "sent-samples.bin"
        path.write_bytes(path.read_bytes()[:-700])
    said: list[str] = []
    resumed = cutlayer.resume(tmp_path / "cut", progress=Heard(said))
    assert equal(once.adapter, resumed.adapter)
    assert any("samples that devices need not send" in line for line in said)
    assert any("asked for again" in line for line in said) == lost
    if not lost:
        assert without_times(resumed.rows) == without_times(once.rows)
    else:
        assert resumed.rows[2].up_bytes > once.rows[2].up_bytes


def test_a_cache_too_small_for_all_samples_changes_bytes_alone(
    tmp_path: Path, once: cutlayer.Result
) -> None:
    small = simulate(lean_job("server.cache_bytes=20000", world={}), out=tmp_path / "run")
    assert equal(once.adapter, small.adapter)
    assert small.rows[2].up_bytes > 2 * once.rows[2].up_bytes
    assert 0 < sum(map(sum, small.rows[2].computed.values())) < 120
    assert (tmp_path / "run" / "sent-samples.bin").stat().st_size <= 40_000


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["method.device=trained"], "blocks on the devices are trained"),
        (["training.image_augmentation=[flip]"], "changes images"),
        (["method.uplink={codec: quantize, rounding: stochastic}"], "rounding is random"),
        (["method.downlink.reuse=true"], "gradients differ in every round"),
        (["method.downlink.variants=2"], "gradients differ in every round"),
    ],
)
def test_samples_that_change_are_not_reused(
    tmp_path: Path, changes: list[str], sentence: str
) -> None:
    with pytest.raises(JobError, match=sentence):
        simulate(lean_job(*changes, "method.uplink.reuse=true"), out=tmp_path / "run")


def test_a_device_that_names_what_it_never_sent_is_at_fault() -> None:
    job = lean_job("method.uplink.codec=quantize")
    parts = load_parts(job)
    server = make_server(job, parts, first_adapter(job, parts.model))
    decisions = {0: Decision(job.cut), 1: Decision(job.cut)}
    server.coding.begin(decisions)
    server.begin(0, decisions, {0: 1, 1: 1})
    devices = [make_device(job, parts, number) for number in decisions]
    for device in devices:
        device.coding.begin(Opening(held=server.coding.held(device.id)))
        device.begin(0, decisions[device.id], None)
    honest, _ = Pool(devices).send(ACTIVATIONS, 0, Stopwatch())
    (sample, *_) = decode_visit(honest).frames  # of device 0
    liar = encode_visit(Visit(1, 0, 0, {sample: None}))
    state = PoolStep(0)
    faults = server.part.take(ACTIVATIONS, state, {0: honest, 1: liar}, Stopwatch())
    assert list(state.losses) == [0]
    assert "which it never sent" in str(faults[1])


def sent(device: int, sample: int, decision: Decision, basis: int | None = 5) -> SentSample:
    return SentSample(
        device, sample, setting_of(decision), basis, bytes(100), 0.0 if basis is None else 0.5
    )


def test_the_cache_drops_what_another_setting_or_basis_makes_stale() -> None:
    cache, one, other = SampleCache(10_000), Decision(2), Decision(2, tokens=9)
    half = {0: 0.5, 1: 0.5}
    cache.begin({0: one, 1: one}, {0: 5, 1: 5}, half)
    for device, sample, basis in [(0, 3, 5), (0, 4, None), (1, 3, 5)]:
        cache.keep(sent(device, sample, one, basis))
    cache.begin({0: one, 1: one}, {0: 5, 1: 5}, {0: 0.2, 1: 0.2})
    assert cache.samples(1) == {3}  # finer than is asked for now
    cache.begin({1: one}, {1: 5}, {1: 0.6})
    assert cache.samples(1) == frozenset()
    cache.keep(sent(1, 3, one, 5))
    assert cache.samples(0) == {3, 4}
    assert cache.find(1, 4) is None  # device 0's
    cache.begin({0: one}, {0: 6}, half)
    assert cache.samples(0) == {4}  # which needs no basis
    assert cache.samples(1) == {3}  # until its device takes part again
    cache.begin({1: other}, {1: 5}, half)
    assert cache.samples(1) == frozenset()
    assert cache.used_bytes == 100


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=60))
@settings(max_examples=30, deadline=None)
def test_the_cache_never_holds_more_than_its_limit(samples: list[tuple[int, int]]) -> None:
    cache, half = SampleCache(1_000), dict.fromkeys(range(4), 0.5)
    cache.begin({device: Decision(2) for device in range(4)}, dict.fromkeys(range(4), 5), half)
    for device, sample in samples:
        cache.keep(sent(device, sample, Decision(2)))
        assert cache.used_bytes <= 1_000
    assert cache.used_bytes == sum(len(one.frame) for one in cache)


numbers = st.integers(0, 2**31)
kept = st.builds(
    lambda samples, body: frame.pack("held", HeldHeader(samples, 0, False), body),
    st.integers(0, 2),
    st.binary(max_size=9),
)


@given(st.sets(numbers, max_size=40), st.integers(0, 2**40), st.data())
@settings(max_examples=60, deadline=None)
def test_frames_of_samples_come_back_or_are_refused(
    samples: set[int], room: int, data: st.DataObject
) -> None:
    held = Held(frozenset(samples), room)
    assert decode_held(encode_held(held)) == held
    frames = {n: data.draw(st.none() | kept) for n in samples or {7}}
    visit = Visit(3, 1, 2, frames)
    found = decode_visit(encode_visit(visit))
    assert found == visit
    assert list(found.frames) == list(frames)
    for whole, decode in ((encode_held(held), decode_held), (encode_visit(visit), decode_visit)):
        broken = bytearray(whole)
        broken[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        with pytest.raises(FrameError):
            decode(bytes(broken))
        with pytest.raises(FrameError):
            decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_forged_frames_of_samples_are_refused() -> None:
    forged = [
        (VisitHeader(0, 0, 0, (1, 1), (0, 0), (), ()), b""),
        (VisitHeader(0, 0, 0, (1, 2), (0,), (), ()), b""),
        (VisitHeader(0, 0, 0, (1,), (1,), (1,), (9,)), b"abc"),
        (VisitHeader(0, 0, 0, (1,), (1,), (1,), ()), b"a"),
        (VisitHeader(0, 0, 0, (1,), (1,), (0,), (3,)), b"abc"),
        (VisitHeader(0, 0, 0, (1,), (2,), (1,), (3,)), b"abcd"),
        # A beginning that many samples name.
        (VisitHeader(0, 0, 0, tuple(range(99)), (1,) * 99, (999,), (0,) * 99), bytes(999)),
    ]
    for header, body in forged:
        with pytest.raises(FrameError):
            decode_visit(frame.pack("visit", header, body), max_bytes=10_000)
    steps = np.array([5, 0], "<u4").tobytes()
    far = np.array([2**31, 2**31], "<u4").tobytes()
    for header, body in [
        (HeldHeader(2, 0, False), steps),
        (HeldHeader(2, 0, False), far),
        (HeldHeader(3, 0, False), steps),
        (HeldHeader(2**24, 0, True), b"(\xb5/\xfd no zstandard"),
    ]:
        with pytest.raises(FrameError):
            decode_held(frame.pack("held", header, body))
