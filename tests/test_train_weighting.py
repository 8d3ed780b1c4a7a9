"""A basis whose errors are weighted by what the blocks after the cut make of them."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cutlayer
from cutlayer import calibrate, simulate
from cutlayer.errors import JobError, RunError
from cutlayer.job import Job, change_job
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.record.checkpoint import load_state
from cutlayer.train.coding import codec_of
from cutlayer.train.crossed import Crossed
from cutlayer.train.fitted_basis import bases_of
from cutlayer.train.parts import first_adapter, load_parts
from cutlayer.train.sensitivity import Sensitivity
from cutlayer.train.tail_weighing import Passed, TailWeighing
from cutlayer.train.ways import FEATURE_GRADIENTS, FEATURES, Way
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.places import find_places
from helpers import equal, language_job, small_job
from test_run_simulate import StopAfter, without_times
from test_train_klt import klt_job
from tiny_models import write_language, write_resnet

WEIGHTED = "method.uplink.weighting=true"
WORDS = ("wombat", "dingo", "heron")


def basis_of(run: Path, cut: int = 2) -> KltCodec:
    """The codec of a run's last basis."""
    return codec_of(bases_of(load_state(run / "state.safetensors").coding)[cut])


def crossed(hidden: Tensor) -> Crossed:
    return Crossed(hidden, None, find_places(hidden, None))


def at_the_cut(job: Job) -> tuple[CutModel, Adapter, Tensor]:
    """The model, the adapter it starts with, and test samples at the cut."""
    parts = load_parts(job)
    adapter = first_adapter(job, parts.model)
    inputs = parts.preprocess(parts.test.inputs)
    with torch.no_grad():
        route = [Segment(adapter, len(parts.test))]
        return parts.model, adapter, parts.model.device_forward(inputs, job.cut, route).hidden


def test_at_the_same_rate_errors_change_less_of_what_the_model_says(tmp_path: Path) -> None:
    job = klt_job("training.rounds=1", "data.test_samples=48")
    model, adapter, hidden = at_the_cut(job)
    errors, lengths = [], []
    for name, more in (("alike", ()), ("weighted", (WEIGHTED,))):
        simulate(klt_job("training.rounds=1", *more), out=tmp_path / name)
        codec, rows = basis_of(tmp_path / name), crossed(hidden).rows
        lengths.append(len(codec.encode([rows])[0].body))
        (got,) = codec.reconstruct([rows])
        with torch.no_grad():
            sent, whole = (
                model.server_forward(one, None, job.cut, [Segment(adapter, len(hidden))])
                for one in (got.view_as(hidden), hidden)
            )
        errors.append(float((sent - whole).square().mean()))
    assert lengths[1] < 1.03 * lengths[0]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    "uplink",
    [
        "weighting: true",
        pytest.param("weighting: true, fit: calibration", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_fits_again_as_one_that_was_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uplink: str
) -> None:
    monkeypatch.setattr("cutlayer.wire.codecs.drift.RateWatch.due", property(lambda self: True))
    job = small_job(
        f"method.uplink={{codec: klt, {uplink}}}",
        "training.rounds=3",
        "devices.per_round=2",
        "data.train_samples=48",
    )
    whole = simulate(job, out=tmp_path / "whole")
    assert basis_of(tmp_path / "whole").basis.head.version == 3
    with pytest.raises(KeyboardInterrupt):
        simulate(job, out=tmp_path / "cut", progress=StopAfter(1))
    resumed = cutlayer.resume(tmp_path / "cut")
    assert equal(whole.adapter, resumed.adapter)
    assert without_times(whole.rows) == without_times(resumed.rows)


@pytest.mark.parametrize(
    "changes",
    [
        ("model.tail=1",),
        ("training.checkpointing=true",),
        ("method.device=frozen", "method.tokens.keep=12", "method.uplink.reuse=false"),
        ("method.uplink.change=true", "training.rounds=3"),
    ],
    ids=["tail", "checkpoints", "few tokens", "changes"],
)
def test_it_goes_with_tails_checkpoints_few_tokens_and_changes(
    tmp_path: Path, changes: tuple[str, ...]
) -> None:
    few = ("training.rounds=1", "data.train_samples=48", *changes)
    frames = []
    for name, more in (("alike", ()), ("weighted", (WEIGHTED,))):
        run = simulate(small_job("method.uplink.codec=klt", *few, *more), out=tmp_path / name)
        assert all(row.loss > 0 for row in run.rows)
        coding = load_state(tmp_path / name / "state.safetensors").coding
        frames.append([bases_of(coding).get(2), bases_of(coding, "change.").get(2)])
    for alike, weighted in zip(*frames, strict=True):
        assert (alike is None) == (weighted is None)
        assert alike is None or alike != weighted
    assert ("method.uplink.change=true" in changes) == (frames[0][1] is not None)


@pytest.mark.parametrize("tail", ["null", "0"])
def test_language_models_have_weighted_bases(tmp_path: Path, tail: str) -> None:
    model, table = write_language(tmp_path / "model"), tmp_path / "pairs.jsonl"
    pairs = [
        {"prompt": f"name : {word}", "completion": f"the {word} is here"} for word in WORDS * 8
    ]
    table.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    few = ("method.uplink.codec=klt", f"model.tail={tail}")
    frames = []
    for name, more in (("alike", ()), ("weighted", (WEIGHTED,))):
        run = simulate(language_job(model, table, *few, *more, rounds=1), out=tmp_path / name)
        assert run.rows[0].loss > 0
        frames.append(basis_of(tmp_path / name, 1).basis.frame)
    assert frames[0] != frames[1]


def test_it_is_refused_where_it_would_do_nothing(tmp_path: Path) -> None:
    not_held = "the server does not hold the blocks that gradients at the cut train"
    for changes, why in (
        (("method.downlink={codec: klt, weighting: true}",), not_held),
        (("method.tail_uplink={codec: klt, weighting: true}",), "the server runs the last blocks"),
        (("model.tail=1", "method.tail_downlink={weighting: true}"), "quantize does not read it"),
        ((WEIGHTED, "method.uplink.codec=quantize"), "codec quantize does not read it"),
    ):
        with pytest.raises(JobError, match=why):
            simulate(klt_job(*changes), out=tmp_path / "run")


def way_codec(run: Path, way: Way) -> KltCodec:
    """The codec of a run's last basis of what passes its tail."""
    (frame,) = bases_of(load_state(run / "state.safetensors").coding, way.start).values()
    return codec_of(frame)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_at_a_tail_errors_change_less_of_the_loss_and_of_the_servers_steps(
    tmp_path: Path, precision: str
) -> None:
    both = "method.tail_{}={{codec: klt, rate_bits: {}, weighting: {}}}"
    job = small_job("model.tail=1", "training.rounds=1", f"training.precision={precision}")
    model, adapter, hidden = at_the_cut(job)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in adapter.items()}
    own = [leaves[name] for name in model.server_names(job.cut)]
    features = model.middle_forward(hidden, None, job.cut, [Segment(leaves, len(hidden))])
    labels = torch.arange(len(hidden)) % 10

    def logits(given: Tensor) -> Tensor:
        return model.tail_forward(given, None, [Segment(adapter, len(given))])

    down = features.detach().requires_grad_()
    said = logits(down)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(said, labels), [down])
    found = defaultdict(list)
    for weighted in ("false", "true"):
        changes = [both.format("downlink", 1, weighted), both.format("uplink", 1, weighted)]
        simulate(change_job(job, changes), out=tmp_path / weighted)
        for way, sent in ((FEATURES, down.detach()), (FEATURE_GRADIENTS, gradient)):
            codec, rows = way_codec(tmp_path / weighted, way), crossed(sent).rows
            (got,) = codec.reconstruct([rows])
            error = got.view_as(sent) - sent
            with torch.no_grad():
                changed = [logits(sent + error) - said]
            if way == FEATURE_GRADIENTS:
                changed = [
                    tensor
                    for one, wrong in zip(features, error, strict=True)
                    for tensor in torch.autograd.grad(one, own, wrong, retain_graph=True)
                ]
            size = sum(float(one.square().sum()) for one in changed)
            found[way].append((size, len(codec.encode([rows])[0].body)))
    for way, most in ((FEATURES, 0.1), (FEATURE_GRADIENTS, 0.9)):
        (alike, few), (weighed, many) = found[way]
        assert weighed < most * alike
        assert many < 1.07 * few


def test_a_calibration_measures_the_weighted_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path))
    uplink = "method.uplink={codec: klt, weighting: %s}"
    jobs = [small_job(uplink % one, method="auto", world={}) for one in ("false", "true")]
    changes = [calibrate(job, samples=16, cuts=[2], tokens=[], bits=[0.25]) for job in jobs]
    alike, weighted = (float(one.divergence[0, -1, 0]) for one in changes)
    assert weighted < alike
    assert changes[0].subject != changes[1].subject


def test_no_device_has_more_say_than_its_samples() -> None:
    job = klt_job()
    model, adapter, hidden = at_the_cut(job)
    weigh = Sensitivity(job, model, lambda: adapter)
    honest = [crossed(hidden[:8]), crossed(hidden[8:16])]
    without = weigh(2, honest)
    # Blocks that normalise answer a thousand times as much to tokens of a thousandth of the size.
    moved = weigh(2, [*honest, crossed(hidden[:2] * 1e-3)]) - without
    assert moved.norm() < 0.25 * without.norm()
    still = {name: torch.zeros_like(one) for name, one in adapter.items()}
    with pytest.raises(RunError, match="does not depend on their activations at cut 2"):
        Sensitivity(job, model, lambda: still)(2, honest)


def at_the_tail(hidden: Tensor, device: int) -> Passed:
    positions = find_places(hidden, None).flatten()
    return Passed(device, 2, hidden, None, None, positions)


def test_at_a_tail_no_device_has_more_say_than_its_samples() -> None:
    both = (f"method.tail_{way}link={{codec: klt, weighting: true}}" for way in ("down", "up"))
    job = small_job("model.tail=1", *both)
    model, adapter, hidden = at_the_cut(job)
    weigh = TailWeighing(job, model, lambda: adapter)
    rng = torch.Generator().manual_seed(0)

    def metrics(*batches: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        for device, (sent, gradient) in enumerate(batches):
            weigh.note(at_the_tail(sent, device), sent, gradient)
        features, gradients = weigh.features(), weigh.gradients()
        weigh.end()
        assert features is not None
        assert gradients is not None
        return features, gradients

    def normal(size: float) -> Tensor:
        return size * torch.randn(hidden[:4].shape, generator=rng)

    honest = [(hidden[:4], normal(1e-3)), (hidden[4:8], normal(1e-3)), (hidden[8:12], normal(1e-3))]
    without = metrics(*honest)
    for sent, gradient in (
        (1e3 * hidden[:4], normal(1e3)),
        (1e-3 * hidden[:4], normal(1e-12)),
        (hidden[:4] * 1e12, torch.zeros_like(hidden[:4])),
    ):
        for changed, before in zip(metrics(*honest, (sent, gradient)), without, strict=True):
            assert (changed - before).norm() < before.norm()
    assert weigh.features() is None
    assert weigh.gradients() is None


def test_a_residual_network_weighs_what_passes_its_tail(tmp_path: Path) -> None:
    both = (f"method.tail_{way}link={{codec: klt, weighting: true}}" for way in ("down", "up"))
    job = small_job(
        "model.tail=1", f"model.path={write_resnet(tmp_path / 'model')}", "method.train=full",
        "training.lr=0.01", "model.image_size=32", *both,
    )  # fmt: skip
    first, second = simulate(job, out=tmp_path / "run").rows
    for device, traffic in second.traffic.items():
        assert traffic[5] + traffic[6] < (first.traffic[device][5] + first.traffic[device][6]) / 2


def test_a_server_that_trains_nothing_weighs_no_gradients(tmp_path: Path) -> None:
    job = small_job(
        "model.tail=1", "model.lora.side=device", "method.tail_uplink={codec: klt, weighting: true}"
    )
    with pytest.raises(JobError, match=r"tail_uplink\.weighting: the server trains nothing"):
        simulate(job, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
