"""Averages that hostile devices cannot steer, and what the server scales down, by whom."""

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer import simulate
from cutlayer.allocate.decision import base_decision
from cutlayer.errors import JobError
from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.record.row_lines import line_of, row_of
from cutlayer.reports.build_report import report
from cutlayer.settings.trust import Trust
from cutlayer.train.link import LocalLink
from cutlayer.train.parts import first_adapter, load_parts, make_device, make_server
from cutlayer.train.result import RoundResult
from cutlayer.train.robust_average import combined, krum, scaled_to_median
from cutlayer.train.round import train_round
from cutlayer.train.unread import unread
from cutlayer.wire.adapter_frames import decode_adapter, encode_adapter
from cutlayer.wire.messages import AdapterMessage
from helpers import largest_difference, small_job

ROBUST = ["median", "trimmed-mean", "krum"]
FIVE = ("devices.count=5", "data.train_samples=80", "training.rounds=1")


def adapter(*values: float) -> Adapter:
    return {"a": torch.tensor(values), "b": torch.tensor([[2 * values[0]]])}


parts_of = cache(load_parts)


class Spoiling(LocalLink):
    """Devices of which the last sends its adapter times a factor."""

    def __init__(self, job: Job, factor: float) -> None:
        self.parts = parts_of(job.model_copy(update={"trust": Trust()}))
        count = job.devices.count
        super().__init__(make_device(job, self.parts, i) for i in range(count))
        self._factor, self._liar = factor, count - 1

    def upload(self, devices: list[int]) -> dict[int, bytes]:  # type: ignore[override]
        frames = super().upload(devices)
        message = decode_adapter(frames[self._liar])
        spoilt = {name: t * self._factor for name, t in message.tensors.items()}
        lie = AdapterMessage(self._liar, message.round, message.samples, spoilt)
        return frames | {self._liar: encode_adapter(lie, 32)}


@cache
def after_a_round(job: Job, factor: float) -> tuple[Adapter, RoundResult]:
    link = Spoiling(job, factor)
    server = make_server(job, link.parts, first_adapter(job, link.parts.model))
    decisions = dict.fromkeys(range(job.devices.count), base_decision(job))
    result = train_round(job, 0, decisions, link, server)
    return server.adapter, result


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=7),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.sampled_from(ROBUST),
)
@settings(max_examples=60)
def test_whatever_one_device_sends_the_others_span_the_robust_average(
    honest: list[float], lie: float, average: str
) -> None:
    """Krum bears one of n where n is five or more: then it takes an honest adapter."""
    sent = {device: adapter(value, value) for device, value in enumerate(honest)}
    sent[len(honest)] = adapter(lie, lie)
    if average == "krum" and len(sent) < 5:
        return
    samples = dict.fromkeys(sent, 1) | {len(honest): 10**12}
    found = combined(sent, samples, Trust(average=average, hostile=1))["a"]
    far = abs(lie) > 1e3  # a lie among honest values may be taken by krum, and does no harm
    if average != "krum" or far:
        assert min(honest) - 1e-5 <= found.min() <= found.max() <= max(honest) + 1e-5


def test_trimmed_mean_and_median_are_what_their_definitions_say() -> None:
    sent = {d: adapter(v, -v) for d, v in enumerate([1.0, 5.0, 2.0, 100.0, -50.0])}
    samples = dict.fromkeys(sent, 7)
    median = combined(sent, samples, Trust(average="median"))
    trimmed = combined(sent, samples, Trust(average="trimmed-mean", hostile=1))
    assert torch.equal(median["a"], torch.tensor([2.0, -2.0]))
    torch.testing.assert_close(trimmed["a"], torch.tensor([8 / 3, -8 / 3]))


def test_krum_takes_the_adapter_nearest_to_its_neighbours() -> None:
    sent = [adapter(v, v) for v in (0.0, 0.1, 0.3, 9.0, 9.1, -40.0)]
    # By hand: n - f - 2 = 2 nearest; the second is nearest to the first and the third.
    assert krum(sent, hostile=2) == 1
    assert krum(sent[:1], hostile=1) == 0


def test_an_update_is_scaled_to_its_bound_and_named_with_its_excess() -> None:
    start = adapter(0.0, 0.0)
    sent = {0: adapter(1.0, 0.0), 1: adapter(0.5, 0.0), 2: adapter(0.0, 0.0), 3: adapter(8.0, 0.0)}
    found, excess = scaled_to_median(start, sent, 2.0, lambda name: True)
    # The median of 0, 0.5, 1 and 8 is the lower one of the middle, 0.5.
    assert excess == {3: pytest.approx(8.0)}
    assert largest_difference(found[3], adapter(1.0, 0.0)) < 1e-6
    assert found[1] is sent[1]


@pytest.mark.parametrize("average", ROBUST)
def test_a_hostile_device_moves_the_plain_mean_and_not_the_robust_one(average: str) -> None:
    job = small_job(*FIVE)
    honest, _ = after_a_round(job, 1.0)
    plain, _ = after_a_round(job, 900.0)
    robust, _ = after_a_round(small_job(*FIVE, f"trust.average={average}"), 900.0)
    assert largest_difference(honest, plain) > 1.0
    assert largest_difference(honest, robust) < 0.1


def test_the_record_and_the_report_say_whose_update_was_scaled_down(tmp_path: Path) -> None:
    job = small_job(*FIVE, "trust.clip_to_median=2")
    _, result = after_a_round(job, 900.0)
    assert result.clipped.keys() == {4}
    assert result.clipped[4] > 10
    tight = small_job(*FIVE, "trust.clip_to_median=1", "trust.clip_activations=1")
    done = simulate(tight, out=tmp_path / "run")
    row = done.rows[0]
    assert row.clipped
    assert all(times > 1 for times in row.clipped.values())
    # 80 images of 50 tokens, all of them longer than 1.
    assert sum(row.clipped_tokens.values()) == 80 * 50
    assert row_of(line_of(row)) == row
    report(tmp_path / "run", out=tmp_path / "page.html", images=0)
    page = (tmp_path / "page.html").read_text()
    assert "trust.clip_to_median) and scaled down to it" in page
    assert "4,000 tokens" in page


def test_a_long_token_is_scaled_to_its_bound_before_the_server_trains_on_it() -> None:
    """A bound that no token reaches changes nothing; one below all of them changes the adapter."""
    free, _ = after_a_round(small_job(*FIVE), 1.0)
    wide, result = after_a_round(small_job(*FIVE, "trust.clip_activations=1e6"), 1.0)
    tight, _ = after_a_round(small_job(*FIVE, "trust.clip_activations=0.5"), 1.0)
    assert largest_difference(free, wide) == 0
    assert result.clipped_tokens == {}
    assert largest_difference(free, tight) > 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("trust.average=krum devices.count=4", "rounds of 5 devices or more"),
        ("trust.average=trimmed-mean trust.hostile=2", "rounds of 5 devices or more"),
        ("trust.average=krum devices.count=9 method=asfl world={}", "different cuts"),
    ],
)
def test_too_many_hostile_devices_are_refused(settings: str, said: str) -> None:
    job = small_job(*settings.split())
    with pytest.raises(JobError, match=said):
        load_parts(job)


@pytest.mark.parametrize("setting", ["trust.average=median", "trust.clip_to_median=2"])
def test_an_adapter_that_all_devices_move_is_said_to_have_no_robust_average(setting: str) -> None:
    for method, has_one in {
        "sflora": True,
        "st-sflora": False,
        "lean": False,
        "auto": False,
    }.items():
        said = " ".join(one.sentence() for one in unread(small_job(setting, method=method)))
        assert (f"{setting.split('=')[0]}: " in said) == (not has_one), method
