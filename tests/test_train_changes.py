"""Activations of trained devices that go up as what changed since a sample's last visit."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cutlayer
from cutlayer import simulate
from cutlayer.allocate.decision import Decision
from cutlayer.errors import FrameError, JobError
from cutlayer.job import Job
from cutlayer.settings.method import Quantizer
from cutlayer.simulation.shards import why_one_chain
from cutlayer.train.change_buffers import ChangeBuffers
from cutlayer.train.change_coding import ChangeCoding
from cutlayer.train.coding import DeviceCoding
from cutlayer.train.exchange import ACTIVATIONS
from cutlayer.train.opening import Opening
from cutlayer.train.parts import first_adapter, load_parts, make_device, make_server
from cutlayer.train.pool import Pool
from cutlayer.train.server_part import PoolStep
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.wire.change import as_change
from cutlayer.wire.codec import (
    decode_activations,
    encode_activations,
    encode_activations_with,
)
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.codecs.seam import Rows
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.visit import Visit, decode_visit, encode_visit
from fleet_helpers import served_to_all
from helpers import equal, small_job
from test_run_simulate import Heard, StopAfter

FITTED = ("method.uplink.codec=klt", "method.uplink.change=true")
PLAIN = ("method.uplink={bits: 4, change: true}",)


def changing(*changes: str, **sections: object) -> Job:
    more = ("data.train_samples=120", "training.rounds=4")  # each basis takes 64 of them
    return small_job(*more, *changes, **sections)


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int | None]]:
    """Of each device in each round: what it holds, what its server says it holds, and the steps
    with changes in 4 bits."""
    found: list[tuple[int, int, int | None]] = []
    begin = DeviceCoding.begin

    def noted(self: DeviceCoding, opening: Opening) -> None:
        if opening.held_digest is not None:
            found.append((self.changes.digest, opening.held_digest, opening.change_steps))
        begin(self, opening)

    monkeypatch.setattr(DeviceCoding, "begin", noted)
    return found


@pytest.mark.parametrize("uplink", [FITTED, PLAIN])
def test_device_and_server_hold_the_same_to_the_last_bit(
    tmp_path: Path, digests: list[tuple[int, int, int | None]], uplink: tuple[str, ...]
) -> None:
    run = simulate(changing(*uplink), out=tmp_path / "run")
    assert len(digests) == 4 * 4
    assert all(mine == told for mine, told, _ in digests)
    assert len({mine for mine, _, _ in digests[4:]}) == 12  # they move from round to round
    assert run.rows[3].up_bytes < run.rows[0].up_bytes
    expected = [None, 2, 0, 0] if uplink is FITTED else [None, 0, 0, 0]
    assert [steps for _, _, steps in digests[::4]] == expected


def test_a_sample_as_a_change_is_close_to_the_sample_sent_whole(tmp_path: Path) -> None:
    changes = simulate(changing(*FITTED), out=tmp_path / "changes")
    whole = simulate(changing(FITTED[0]), out=tmp_path / "whole")
    for one, other in zip(changes.rows, whole.rows, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=0.1)
    assert changes.rows[3].up_bytes < whole.rows[3].up_bytes


def test_changes_over_a_network_are_those_of_the_simulator(tmp_path: Path) -> None:
    job = changing(*FITTED)
    alone = simulate(job, out=tmp_path / "alone")
    together = served_to_all(job, tmp_path / "net", 4)
    assert equal(alone.adapter, together.adapter)
    assert [row.traffic for row in alone.rows] == [row.traffic for row in together.rows]


def test_a_cache_without_room_sends_samples_whole(tmp_path: Path) -> None:
    none = simulate(changing(*PLAIN, "server.cache_bytes=0"), out=tmp_path / "none")
    few = simulate(changing(*PLAIN, "server.cache_bytes=600000"), out=tmp_path / "few")
    sent = {one.folder.name: [row.up_bytes for row in one.rows] for one in (none, few)}
    assert sent["none"][3] > 0.95 * sent["none"][0]
    assert 0.5 * sent["none"][3] < sent["few"][3] < 0.9 * sent["none"][3]


def test_a_resumed_run_sends_samples_whole_once_more_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        simulate(changing(*PLAIN), out=tmp_path / "run", progress=StopAfter(3))
    said: list[str] = []
    rest = cutlayer.resume(tmp_path / "run", progress=Heard(said))
    assert any("whole once more" in line for line in said)
    assert rest.rows[3].up_bytes > 3 * rest.rows[2].up_bytes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["method.device=frozen"], "frozen"),
        (["method.tokens.keep=8"], "tokens of a sample"),
        (["training.image_augmentation=[flip]"], "another at each visit"),
        (["method.uplink={bits: 32, change: true}"], "as they are"),
        (["method.uplink={bits: 4, rounding: stochastic, change: true}"], "rounding is random"),
        (["method.allocation.solver=auto", "world={}"], "take equal"),
        (["method.downlink.change=true"], "gradients differ in every round"),
    ],
)
def test_where_there_can_be_no_changes_a_job_says_why(
    tmp_path: Path, changes: list[str], sentence: str
) -> None:
    with pytest.raises(JobError, match=sentence):
        simulate(changing(*PLAIN, *changes), out=tmp_path / "run")


def test_devices_that_send_changes_stay_in_one_process() -> None:
    job = changing(*PLAIN)
    reason = why_one_chain(job, load_parts(job).model.spec)
    assert reason is not None
    assert "uplink.change" in reason


@pytest.mark.parametrize("change", ["of nothing held", "where a batch is due", "unasked"])
def test_a_device_that_sends_a_change_nobody_can_use_is_at_fault(change: str) -> None:
    job = changing(*(FITTED if change == "where a batch is due" else PLAIN))
    if change == "unasked":
        job = changing("method.uplink.bits=4")
    parts = load_parts(job)
    server = make_server(job, parts, first_adapter(job, parts.model))
    device = make_device(job, parts, 0)
    decisions = {0: Decision(job.cut)}
    server.coding.begin(decisions)
    held = server.coding.held(0)
    device.coding.begin(
        Opening(None, None, server.coding.plain_steps(job.cut), held, held_digest=held and 0)
    )
    device.begin(0, decisions[0], server.broadcasts(0, decisions)[0])
    server.begin(0, decisions, {0: device.steps})
    watch = Stopwatch()
    (sent,) = Pool([device]).send(ACTIVATIONS, 0, watch)
    assert isinstance(sent, bytes)
    if change == "of nothing held":
        visit = decode_visit(sent)
        first, *_ = visit.frames
        frames = visit.frames | {first: as_change(visit.frames[first] or b"")}
        sent = encode_visit(Visit(0, 0, 0, frames))
    else:
        sent = as_change(sent)
    faults = server.part.take(ACTIVATIONS, PoolStep(0), {0: sent}, watch)
    assert "what changed of its" in str(faults[0])


def test_a_basis_of_changes_is_fitted_again_once_they_outgrow_it() -> None:
    job = changing(*FITTED)
    spec = load_parts(job).model.spec
    cut, draw = job.cut, torch.Generator().manual_seed(0)
    held = ChangeCoding(job, spec, {})
    one = {0: Decision(cut)}

    def change(scale: float) -> ActivationsMessage:
        hidden = scale * torch.randn(1, 8, spec.width_at(cut), generator=draw)
        return ActivationsMessage(0, 0, 0, hidden, None, torch.tensor([0]), 10)

    rows = [Rows(change(1.0).hidden[0], torch.arange(8)) for _ in range(16)]
    whole = KltCodec(fit_basis(rows, KltSettings(prefix=1)))

    def round_of(scale: float) -> int | None:
        """A round of such changes; returns for how many steps they come in 4 bits."""
        held.begin(one, {cut: True})
        steps = held.steps(cut)
        for _ in range(16):
            message = change(scale)
            codec = held.codec(cut) if steps == 0 else QuantizedCodec(Quantizer(bits=4))
            assert codec is not None
            (frame,) = encode_activations_with(codec, [message])
            held.note(cut, message.hidden, message.hidden, frame)
            held.keep(0, 0, message.hidden[0])
        held.end({cut: whole})
        return steps

    held.begin(one, {cut: True})
    assert held.steps(cut) is None  # nothing is held
    held.keep(0, 0, change(1.0).hidden[0])
    assert [round_of(scale) for scale in (1.0, 1.0, 0.9, 3.0)] == [8, 0, 0, 0]
    before = held.fingerprint(cut)
    assert round_of(3.0) == 8
    assert held.fingerprint(cut) != before
    assert round_of(3.0) == 0


def test_a_change_is_never_read_as_activations() -> None:
    message = ActivationsMessage(0, 0, 0, torch.randn(1, 3, 4), None, torch.tensor([1]), 2)
    whole = encode_activations(message, Quantizer(bits=8))
    assert len(as_change(whole)) == len(whole)
    with pytest.raises(FrameError, match="change"):
        decode_activations(as_change(whole))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=20),
    st.integers(0, 200),
)
def test_buffers_never_hold_more_than_they_have_room_for(
    kept: list[tuple[int, int]], room: int
) -> None:
    one, other = ChangeBuffers(), ChangeBuffers()
    for buffers in (one, other):
        buffers.begin(room)
        for sample, value in kept:
            buffers.keep(sample, torch.full((2, 4), float(value)))
            assert buffers.used_bytes <= room
    assert one.digest == other.digest
    if one.samples:
        sample, hidden = next(iter(one.samples.items()))
        other.keep(sample, torch.nextafter(hidden, torch.tensor(9.0)))
        assert one.digest != other.digest
