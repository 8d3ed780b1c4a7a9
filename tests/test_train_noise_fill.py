"""Noise like a fitted codec's errors, in the activations that the server trains on."""

from pathlib import Path

import pytest
import torch

import cutlayer
from cutlayer import simulate
from cutlayer.errors import JobError
from cutlayer.train.crossed import Crossed
from cutlayer.train.noise_fill import error_roots, noise_filled
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from helpers import equal, language_job, small_job
from test_run_simulate import StopAfter, without_times
from test_train_weighting import crossed
from tiny_models import write_language

FILLED = "method.uplink={codec: klt, noise_fill: true, rate_bits: 0.2}"


@pytest.mark.parametrize("scaled", [False, True])
def test_filled_activations_are_spread_as_those_that_were_sent(scaled: bool) -> None:
    rng = torch.Generator().manual_seed(3)
    samples, T, D = 60, 9, 12
    spread = torch.logspace(1, -1, D)
    hidden = torch.randn(samples, T, D, generator=rng) * spread
    hidden[:, 0] *= 4  # the prefix token is unlike the others
    came = crossed(hidden)
    settings = KltSettings(prefix=1, rate_bits=1.0, scaled=scaled)
    codec = KltCodec(fit_basis([came.rows], settings), settings)
    (decoded,) = codec.reconstruct([came.rows])
    decoded = decoded.view_as(hidden)
    roots = error_roots(codec, [came.rows])
    filled = noise_filled(Crossed(decoded, None, came.positions), codec, roots, rng)

    def off(some: torch.Tensor, token: int) -> float:
        """How far the variances of the channels of a token lie from those sent, by logarithm."""
        kinds = [one[:, :1] if token == 0 else one[:, 1:] for one in (some, hidden)]
        variances = [kind.flatten(0, 1).var(0) + 1e-6 for kind in kinds]
        return float((variances[0] / variances[1]).log().abs().mean())

    for token in (0, 1):
        assert off(filled, token) < 0.5 * off(decoded, token)
    assert (filled - decoded).square().mean() < 2 * (hidden - decoded).square().mean()


def test_padding_gets_no_noise() -> None:
    rng = torch.Generator().manual_seed(4)
    hidden = torch.randn(20, 5, 8, generator=rng)
    came = crossed(hidden)
    codec = KltCodec(fit_basis([came.rows], KltSettings(rate_bits=0.3)))
    mask = torch.arange(5)[None] < torch.tensor([5, 3] * 10)[:, None]
    padded = Crossed(hidden, mask, came.positions)
    filled = noise_filled(padded, codec, error_roots(codec, [came.rows]), rng)
    assert torch.equal(filled == hidden, ~mask[..., None].expand_as(hidden))


def test_the_same_bytes_train_another_adapter_and_a_resumed_run_the_same(tmp_path: Path) -> None:
    more = ("training.rounds=3", "data.train_samples=120", "method.device=frozen")
    plain = simulate(small_job(FILLED, "method.uplink.noise_fill=false", *more), out=tmp_path / "a")
    whole = simulate(small_job(FILLED, *more), out=tmp_path / "b")
    sent = [[row.up_bytes for row in run.rows] for run in (plain, whole)]
    assert sent[0] == sent[1]
    assert not equal(plain.adapter, whole.adapter)
    with pytest.raises(KeyboardInterrupt):
        simulate(small_job(FILLED, *more), out=tmp_path / "cut", progress=StopAfter(2))
    resumed = cutlayer.resume(tmp_path / "cut")
    assert equal(whole.adapter, resumed.adapter)
    assert without_times(whole.rows) == without_times(resumed.rows)


@pytest.mark.parametrize("tail", ["null", "0"])
def test_language_models_train_on_filled_activations(tmp_path: Path, tail: str) -> None:
    model, table = write_language(tmp_path / "model"), tmp_path / "pairs.jsonl"
    table.write_text('{"prompt": "name : dog", "completion": "the dog is here"}\n' * 24)
    losses = []
    for fill in ("false", "true"):
        uplink = f"method.uplink={{codec: klt, rate_bits: 0.2, noise_fill: {fill}}}"
        job = language_job(model, table, uplink, f"model.tail={tail}", rounds=2)
        losses.append(simulate(job, out=tmp_path / fill).rows[1].loss)
    assert losses[0] != losses[1]


def test_it_is_refused_where_it_would_do_nothing(tmp_path: Path) -> None:
    for changes, why in (
        (["method.uplink.noise_fill=true"], "codec quantize does not read it"),
        (["method.downlink={codec: klt, noise_fill: true}"], "set method.uplink.noise_fill"),
        ([FILLED, "method.uplink.change=true"], "come as changes"),
    ):
        with pytest.raises(JobError, match=why):
            simulate(small_job(*changes), out=tmp_path / "run")
