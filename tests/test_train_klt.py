"""Training through the klt codec: who fits it, what its basis costs, and that both ends agree."""

from pathlib import Path
from typing import Any

import pytest
import torch

import cutlayer
from cutlayer import simulate
from cutlayer.allocate.decision import Decision
from cutlayer.errors import JobError
from cutlayer.job import Job
from cutlayer.model.families import describe
from cutlayer.record.checkpoint import load_state
from cutlayer.train.coding import codec_of
from cutlayer.train.fitted_basis import bases_of
from cutlayer.train.server_coding import ServerCoding
from cutlayer.wire.codec import encode_activations_with
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.messages import ActivationsMessage
from helpers import equal, small_job
from test_run_simulate import StopAfter, without_times


def klt_job(*settings: str, **sections: Any) -> Job:
    few = ("data.train_samples=120", "training.local_epochs=2")  # a basis takes 64 of them
    return small_job("method.uplink.codec=klt", *few, *settings, **sections)


FEW_TOKENS = ["method.device=frozen", "method.tokens.keep=12", "method.uplink.reuse=false"]


@pytest.mark.parametrize("settings", [[], FEW_TOKENS])
def test_one_basis_comes_down_and_later_rounds_need_fewer_bytes(
    tmp_path: Path, settings: list[str]
) -> None:
    result = simulate(klt_job(*settings), out=tmp_path / "run")
    first, second = result.rows
    state = load_state(tmp_path / "run" / "state.safetensors")
    basis = bases_of(state.coding)[2]
    assert {t[4] for t in first.traffic.values()} == {len(basis)}
    assert {t[4] for t in second.traffic.values()} == {0}
    assert second.up_bytes < first.up_bytes
    assert first.down_bytes >= 4 * len(basis)
    bits = [8 * t[0] / second.samples_trained[d] for d, t in second.traffic.items()]
    head = codec_of(basis).basis.head
    tokens = 14 if settings else 50  # CLS and the merged token stand beside the 12
    assert max(bits) / tokens < 2 * 0.5 * head.width
    assert second.accuracy_through_cut is not None


@pytest.mark.parametrize("order", ["parallel", "sequential"])
def test_a_resumed_run_has_the_same_basis_and_sends_the_same_bytes(
    tmp_path: Path, order: str
) -> None:
    job = klt_job("devices.per_round=2", "training.rounds=3", f"method.order={order}")
    whole = simulate(job, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        simulate(job, out=tmp_path / "cut", progress=StopAfter(1))
    resumed = cutlayer.resume(tmp_path / "cut")
    assert equal(whole.adapter, resumed.adapter)
    assert without_times(whole.rows) == without_times(resumed.rows)


@pytest.mark.parametrize("device", ["trained", "frozen"])
def test_a_basis_of_the_servers_own_samples_goes_down_before_anything_is_sent(
    tmp_path: Path, device: str
) -> None:
    changes = (f"method.device={device}", "data.test_samples=20", "data.train_samples=64")
    job = klt_job("method.uplink.fit=calibration", "method.uplink.reuse=false", *changes)
    run = simulate(job, out=tmp_path / "run")
    first, second = run.rows
    basis = bases_of(load_state(tmp_path / "run" / "state.safetensors").coding)[job.cut]
    assert {t[4] for t in first.traffic.values()} == {len(basis)}
    # No first steps in 4 bits: the first round takes hardly more than the second.
    assert first.up_bytes < 1.3 * second.up_bytes
    with pytest.raises(JobError, match="fits it to what crosses this way"):
        simulate(klt_job("method.downlink={codec: klt, fit: calibration}"), out=tmp_path / "no")


def test_devices_of_several_cuts_have_a_basis_each_and_send_as_finely_as_decided(
    tmp_path: Path,
) -> None:
    job = klt_job(
        "method.allocation.solver=own_solvers:a_rate_each",
        "training.rounds=3",
        "method.uplink.reuse=false",
        method="lean",
        world={},
    )
    whole = simulate(job, out=tmp_path / "whole")
    bases = bases_of(load_state(tmp_path / "whole" / "state.safetensors").coding)
    assert list(bases) == [1, 2]
    versions = [codec_of(basis).basis.head.version for basis in bases.values()]
    assert sorted(versions) == [1, 2]
    last = whole.rows[-1]
    each = [last.traffic[d][0] / last.samples_trained[d] for d in range(4)]
    assert each[0] > 1.5 * each[2]
    assert each[1] > 1.5 * each[3]
    with pytest.raises(KeyboardInterrupt):
        simulate(job, out=tmp_path / "cut", progress=StopAfter(2))
    resumed = cutlayer.resume(tmp_path / "cut")
    assert equal(whole.adapter, resumed.adapter)
    assert without_times(whole.rows) == without_times(resumed.rows)


def message(device: int, step: int, size: float = 1.0, spread: float = 1.0) -> ActivationsMessage:
    rng = torch.Generator().manual_seed(100 * device + step)
    hidden = size * torch.randn(8, 50, 128, generator=rng) * spread ** torch.arange(128)
    return ActivationsMessage(device, 0, step, hidden, None, torch.zeros(8, dtype=torch.long), 10)


def coding_of(*settings: str) -> ServerCoding:
    job = klt_job(*settings)
    return ServerCoding(job, describe(job.model))


def test_a_device_that_sends_values_of_another_size_has_no_say_in_the_basis() -> None:
    bases = []
    for liars in (0, 1):
        coding = coding_of()
        coding.begin(dict.fromkeys(range(3 + liars), Decision(2)))
        for device in range(3 + liars):
            coding.note(message(device, 0, 1e4 if device == 3 else 1.0), b"", Decision(2))
        bases.append(coding.fit(2))
    assert bases[0] == bases[1]


def fitted_coding(*settings: str) -> ServerCoding:
    """After a round in which the basis was fitted."""
    coding = coding_of("method.uplink.rate_bits=2", *settings)
    coding.begin({0: Decision(2), 1: Decision(2)})
    for device in (0, 1):
        coding.note(message(device, 0, spread=0.9), b"", Decision(2))
    coding.fit(2)
    coding.end()
    assert coding.codec(2) is not None
    return coding


def drifted_round(coding: ServerCoding, steps: int) -> None:
    """All channels have become as large as the largest."""
    coding.begin({0: Decision(2), 1: Decision(2)})
    assert coding.plain_steps(2) == 0
    for step in range(steps):
        drifted = message(0, step)
        (frame,) = encode_activations_with(coding.codec(2), [drifted])
        coding.note(drifted, frame, Decision(2))
    coding.end()


def test_a_basis_that_no_longer_suits_a_trained_device_is_fitted_again() -> None:
    coding = fitted_coding()
    drifted_round(coding, steps=30)
    coding.begin({0: Decision(2), 1: Decision(2)})
    assert coding.plain_steps(2) == 4  # 64 samples of two devices in batches of 8
    coding.note(message(0, 0), b"", Decision(2))
    assert codec_of(coding.fit(2)).basis.head.version == 2


@pytest.mark.parametrize("resumed", [False, True])
def test_rounds_of_few_frames_tell_together_that_a_basis_no_longer_suits(resumed: bool) -> None:
    coding = fitted_coding()
    for _ in range(3):
        drifted_round(coding, steps=8)
        if resumed:
            job = klt_job("method.uplink.rate_bits=2")
            coding = ServerCoding(job, describe(job.model), coding.saved())
    coding.begin({0: Decision(2), 1: Decision(2)})
    assert coding.plain_steps(2) == 4


@pytest.mark.parametrize("reuse", [False, True])
def test_other_data_of_frozen_devices_make_a_new_basis_unless_samples_are_held(reuse: bool) -> None:
    coding = fitted_coding("method.device=frozen", f"method.uplink.reuse={reuse}")
    drifted_round(coding, steps=30)
    coding.begin({0: Decision(2), 1: Decision(2)})
    assert coding.plain_steps(2) == (0 if reuse else 4)


def test_frames_without_the_range_coder_do_not_make_a_new_basis() -> None:
    coding = fitted_coding("method.uplink.rate_bits=0.25")
    basis = coding.basis(2)
    assert basis is not None
    sender = KltCodec(codec_of(basis).basis, coder="zstd")  # of a device without constriction
    coding.begin({0: Decision(2), 1: Decision(2)})
    lengths = []
    for step in range(30):
        sent = message(0, step, spread=0.9)
        (frame,) = encode_activations_with(sender, [sent])
        lengths.append(len(frame) / len(encode_activations_with(codec_of(basis), [sent])[0]))
        coding.note(sent, frame, Decision(2))
    assert min(lengths) > 1.25
    coding.end()
    coding.begin({0: Decision(2), 1: Decision(2)})
    assert coding.plain_steps(2) == 0
