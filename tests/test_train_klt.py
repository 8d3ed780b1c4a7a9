"""Training through the klt codec: who fits it, what its basis costs, and that both ends agree."""

from pathlib import Path

import pytest
import torch

import cutlayer
from cutlayer import simulate
from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.families import describe
from cutlayer.record.checkpoint import load_state
from cutlayer.train.coding import codec_of
from cutlayer.train.server_coding import ServerCoding
from cutlayer.wire.codec import encode_activations_with
from cutlayer.wire.messages import ActivationsMessage
from helpers import equal, small_job
from test_run_simulate import StopAfter, without_times


def klt_job(*settings: str) -> Job:
    few = ("data.train_samples=120", "training.local_epochs=2")  # a basis takes 64 of them
    return small_job("method.uplink.codec=klt", *few, *settings)


FEW_TOKENS = ["method.device=frozen", "method.tokens.keep=12", "method.uplink.reuse=false"]


@pytest.mark.parametrize("settings", [[], FEW_TOKENS])
def test_one_basis_comes_down_and_later_rounds_need_fewer_bytes(
    tmp_path: Path, settings: list[str]
) -> None:
    result = simulate(klt_job(*settings), out=tmp_path / "run")
    first, second = result.rows
    state = load_state(tmp_path / "run" / "state.safetensors")
    basis = state.coding["basis"].numpy().tobytes()
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
            coding.note(message(device, 0, 1e4 if device == 3 else 1.0), b"", None)
        bases.append(coding.fit())
    assert bases[0] == bases[1]


def test_a_basis_that_no_longer_suits_a_trained_device_is_fitted_again() -> None:
    coding = coding_of("method.uplink.rate_bits=2")
    coding.begin({0: Decision(2), 1: Decision(2)})
    for device in (0, 1):
        coding.note(message(device, 0, spread=0.9), b"", None)
    coding.fit()
    coding.end()
    assert coding.codec is not None
    coding.begin({0: Decision(2), 1: Decision(2)})
    assert coding.plain_steps == 0
    for step in range(30):  # all channels have become as large as the largest
        drifted = message(0, step)
        (frame,) = encode_activations_with(coding.codec, [drifted])
        coding.note(drifted, frame, None)
    coding.end()
    coding.begin({0: Decision(2), 1: Decision(2)})
    assert coding.plain_steps == 4  # 64 samples of two devices in batches of 8
    coding.note(message(0, 0), b"", None)
    assert codec_of(coding.fit()).basis.head.version == 2
