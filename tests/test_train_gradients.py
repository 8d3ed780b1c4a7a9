"""Gradients through the klt codec: fitted by the server, sent as they change, the same resumed."""

from pathlib import Path

import pytest
import torch

import cutlayer
from cutlayer import simulate
from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.families import describe
from cutlayer.planning.plan import plan
from cutlayer.record.checkpoint import load_state
from cutlayer.train.fitted_basis import bases_of
from cutlayer.train.way_coding import WayCoding
from cutlayer.train.ways import GRADIENTS
from cutlayer.wire.codec import GradientMessage, encode_gradients_with
from cutlayer.wire.codecs.klt import KltCodec
from helpers import equal, small_job
from test_run_simulate import StopAfter, without_times


def gradients_job(*settings: str) -> Job:
    return small_job(
        "data.train_samples=120",
        "method.downlink={codec: klt, rate_bits: 0.25}",
        "training.rounds=3",
        *settings,
    )


def test_gradients_come_back_in_a_quarter_of_a_bit_after_the_first_round(tmp_path: Path) -> None:
    job = gradients_job("method.uplink.codec=klt")
    whole = simulate(job, out=tmp_path / "whole")
    bases = bases_of(load_state(tmp_path / "whole" / "state.safetensors").coding, GRADIENTS.start)
    assert list(bases) == [job.cut]
    first, second, third = whole.rows
    assert all(
        second.traffic[d][1] < first.traffic[d][1] / 8 for d in range(4)
    )  # which came in 4 bits
    assert {t[4] for t in second.traffic.values()} == {len(bases[job.cut])}
    assert {t[4] for t in third.traffic.values()} == {0}
    with pytest.raises(KeyboardInterrupt):
        simulate(job, out=tmp_path / "cut", progress=StopAfter(2))
    resumed = cutlayer.resume(tmp_path / "cut")
    assert equal(whole.adapter, resumed.adapter)
    assert without_times(whole.rows) == without_times(resumed.rows)


def test_a_plan_counts_gradients_at_their_rate() -> None:
    fine, coarse = (
        plan(small_job(f"method.downlink={{codec: klt, rate_bits: {rate}}}", world={}))
        for rate in (2, 0.25)
    )
    each = [sum(t.gradients for t in one.shape.traffic.values()) for one in (fine, coarse)]
    assert 5 < each[0] / each[1] < 8


def gradient(step: int, spread: float) -> torch.Tensor:
    rng = torch.Generator().manual_seed(step)
    return 1e-4 * torch.randn(8, 50, 128, generator=rng) * spread ** torch.arange(128)


def test_a_basis_that_gradients_have_left_is_fitted_anew_at_the_end_of_a_round() -> None:
    job = gradients_job()
    coding = WayCoding(job, describe(job.model), GRADIENTS, {})
    decided = {0: Decision(2), 1: Decision(2)}
    versions = []
    for spread in (0.9, 0.9, 0.97, 0.97):
        coding.begin(decided)
        codec = coding.codec(decided[0])
        for step in range(30):
            given = gradient(step, spread)
            message = GradientMessage(0, 0, step, given, 1.0)
            (frame,) = encode_gradients_with(codec, [message])
            coding.note(decided[0], 0, given, None, frame)
        coding.end()
        basis = coding.basis(2)
        assert basis is not None
        codec = coding.codec(decided[0])
        assert isinstance(codec, KltCodec)
        versions.append(codec.basis.head.version)
    assert versions == [1, 1, 2, 2]


def test_rounds_of_few_frames_tell_together_that_gradients_have_left_a_basis() -> None:
    job, decided, saved = gradients_job(), {0: Decision(2)}, {}
    for spread in (0.9, 0.97, 0.97, 0.97):  # a round of three frames each, resumed after each
        coding = WayCoding(job, describe(job.model), GRADIENTS, saved)
        coding.begin(decided)
        for step in range(3):
            given = gradient(step, spread)
            (frame,) = encode_gradients_with(
                coding.codec(decided[0]), [GradientMessage(0, 0, step, given, 1.0)]
            )
            coding.note(decided[0], 0, given, None, frame)
        coding.end()
        saved = coding.saved()
    codec = coding.codec(decided[0])
    assert isinstance(codec, KltCodec)
    assert codec.basis.head.version == 2


def test_a_long_time_that_a_basis_suited_does_not_hide_that_it_no_longer_does() -> None:
    job, decided = gradients_job(), {0: Decision(2)}
    coding = WayCoding(job, describe(job.model), GRADIENTS, {})
    for frames, spread in ((8, 0.9), (60, 0.9), (8, 0.96)):
        coding.begin(decided)
        for step in range(frames):
            given = gradient(step, spread)
            (frame,) = encode_gradients_with(
                coding.codec(decided[0]), [GradientMessage(0, 0, step, given, 1.0)]
            )
            coding.note(decided[0], 0, given, None, frame)
        coding.end()
    codec = coding.codec(decided[0])
    assert isinstance(codec, KltCodec)
    assert codec.basis.head.version == 2
