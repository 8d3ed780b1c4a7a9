"""Calibration: what survives the cut is measured as it crosses, stored, and found again."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_models
from cutlayer.cli import main
from cutlayer.data.dataset import stratified
from cutlayer.data.fingerprint import of_data
from cutlayer.data.sources import load_calibration
from cutlayer.drawing import calibration_plot
from cutlayer.errors import CutlayerError, JobError, RunError
from cutlayer.job import Job, change_job, make_job
from cutlayer.model.bank import Segment
from cutlayer.model.export import save_adapter
from cutlayer.model.families import describe
from cutlayer.model.fingerprint import of_model
from cutlayer.model.framing import fit_for
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.weights import load_model
from cutlayer.planning.calibration.calibrate import calibrate, choose_grid
from cutlayer.planning.calibration.linear_head import fit_head
from cutlayer.planning.calibration.record import (
    Calibration,
    cache_file,
    calibration_for,
    read_calibration,
    write_calibration,
)
from cutlayer.seeds import derive, numpy_rng
from cutlayer.settings.data import Data
from cutlayer.wire.codec import decode_activations, encode_activations
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.tokens import select

TABLES = ("agreement", "divergence", "accuracy", "bytes_per_sample")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CUTLAYER_CACHE", str(folder))
    return folder


def job_on(model: Path, *settings: str) -> Job:
    """A job of the demo's images (20 for training) on a tiny model."""
    values = {
        "model": {"path": str(model), "cut": 1, "max_tokens": 12},
        "data": {"train_samples": 20},
        "training": {"batch_size": 8},
    }
    return change_job(make_job(values), settings)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT of 16 tokens and three blocks, all random."""
    return tiny_models.write(tmp_path_factory.mktemp("model") / "vit", "vit")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """The demo on a small grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTLAYER_CACHE", str(tmp_path_factory.mktemp("cache")))
        job = make_job({"data": {"train_samples": 400}, "method": "sflora"})
        return calibrate(job, samples=64, cuts=[1, 4], tokens=[6, 24], bits=[2, 8])


def test_every_cell_is_what_crosses_the_wire_and_comes_out_of_the_server(
    vit: Path, tmp_path: Path
) -> None:
    job = job_on(vit, "method.uplink.levels=gaussian", "method.uplink.rotate=true")
    pool = load_calibration(job.data, job.seed, fit_for(describe(job.model)))
    train = pool.subset(stratified(pool.labels, 20, numpy_rng(0, "calibrate", "measured")))
    model = load_model(job.model, len(train.classes), job.seed)
    adapter = {k: v.detach() for k, v in tiny_models.random_adapter(model, 3).items()}
    save_adapter(adapter, model, tmp_path / "adapter")
    found = calibrate(job, samples=20, cuts=[2], tokens=[5], bits=[3], adapter=tmp_path / "adapter")
    assert (found.cuts, found.tokens, found.bits) == ((2,), (5, 16), (3, 32))
    assert found.head_samples == 0
    assert found.adapter is not None

    inputs, route = Preprocessor(model.spec)(train.inputs), [Segment(adapter, 20)]
    with torch.no_grad():
        plain = model.forward(inputs, route)
        given = model.device_forward(inputs, 2, route, "cls")
    sent, logits = 0, []
    tokens = job.method.tokens.model_copy(update={"keep": 5})
    for rows in (slice(0, 8), slice(8, 16), slice(16, 20)):
        chosen = select(given.hidden[rows], given.scores[rows], 1, tokens)
        labels = torch.from_numpy(train.labels[rows])
        message = ActivationsMessage(0, 0, 0, chosen.hidden, None, labels, len(train.classes))
        quantizer = job.method.uplink.model_copy(update={"bits": 3})
        frame = encode_activations(message, quantizer, rotation_seed=derive(0, "rotation"))
        sent += len(frame)
        hidden = decode_activations(frame).hidden
        with torch.no_grad():
            logits.append(model.server_forward(hidden, None, 2, [Segment(adapter, len(hidden))]))
    few = torch.cat(logits)
    divergence = (plain.softmax(1) * (plain.log_softmax(1) - few.log_softmax(1))).sum(1).mean()
    assert found.divergence[0, 0, 0] == pytest.approx(divergence.item(), rel=1e-3)
    assert found.bytes_per_sample[0, 0, 0] == pytest.approx(sent / 20)

    with torch.no_grad():
        chosen = select(given.hidden, given.scores, 1, tokens)
        few = model.server_forward(chosen.hidden, None, 2, route)
    assert found.agreement[0, 0, 1] == (few.argmax(1) == plain.argmax(1)).double().mean()
    assert found.accuracy[0, 0, 1] == np.mean(few.argmax(1).numpy() == train.labels)
    divergence = (plain.softmax(1) * (plain.log_softmax(1) - few.log_softmax(1))).sum(1).mean()
    assert found.divergence[0, 0, 1] == pytest.approx(divergence.item(), rel=1e-3)
    assert found.agreement[0, 1, 1] == 1
    assert found.divergence[0, 1, 1] == 0
    assert found.accuracy[0, 1, 1] == np.mean(plain.argmax(1).numpy() == train.labels)

    falling = given.scores.sort(dim=1, descending=True).values.cumsum(1)
    assert found.importance[2][1:] == pytest.approx(falling.mean(0).numpy(), abs=1e-6)
    assert found.importance_high[2][1:] == pytest.approx(
        np.percentile(falling.numpy(), 90, axis=0), abs=1e-6
    )
    for cut, hidden in ((0, model.device_forward(inputs, 0, route).hidden), (2, given.hidden)):
        spans = [part.max() - part.min() for part in (hidden[:16], hidden[16:])]
        assert found.range_16[cut] == pytest.approx(sum(spans).item() / 2, rel=1e-5)
        assert found.mean_square[cut] == pytest.approx(hidden.square().mean().item(), rel=1e-5)


def test_more_tokens_and_bits_keep_more_and_cost_more(measured: Calibration) -> None:
    agreement, sent = measured.agreement, measured.bytes_per_sample
    assert measured.accuracy[0, -1, -1] > 0.5  # a head fitted to other images sees something
    assert (agreement[:, :, 1] >= agreement[:, :, 0]).all()
    assert (agreement[:, :, 1] - agreement[:, :, 0]).mean() > 0.02
    assert (agreement[:, 2, 1:] >= 0.95).all()
    assert (agreement[:, 0, 2] < agreement[:, 1, 2]).all()
    assert (np.diff(sent, axis=1) > 0).all()
    assert (np.diff(sent, axis=2) > 0).all()
    # A later cut has read the tokens that are then dropped.
    assert agreement[1, 0, 2] > agreement[0, 0, 2]


def test_importance_rises_from_0_to_1_ever_more_slowly(measured: Calibration) -> None:
    assert set(measured.importance) == {1, 4}
    for cut, curve in measured.importance.items():
        assert curve.shape == (50,)
        assert (curve[0], curve[-1]) == pytest.approx((0, 1), abs=1e-9)
        assert (np.diff(curve, 2) <= 1e-9).all()
        low, high = measured.importance_low[cut], measured.importance_high[cut]
        assert ((low <= curve + 1e-9) & (curve <= high + 1e-9)).all()
        assert high[6] - low[6] > 0.01


def test_quality_is_1_where_nothing_is_lost(measured: Calibration) -> None:
    for measure in ("agreement", "divergence", "accuracy"):
        quality = measured.quality(measure)
        assert quality.shape == (2, 3, 3)
        assert (quality[:, -1, -1] == 1).all()
        assert ((quality >= 0) & (quality <= 1)).all()
        assert quality[0, 0, 0] < 0.9


def test_padding_of_texts_is_neither_kept_nor_counted(tmp_path: Path) -> None:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "fine", "bad", "poor", "film")
    model = tiny_models.write(tmp_path / "bert", "bert")
    (model / "vocab.txt").write_text("\n".join(words))
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    texts = ["good film", "bad", "fine good film good film fine", "poor bad film poor"]
    lines = ["text,label", *(f"{t},{len(t) % 2}" for t in texts * 8)]
    (tmp_path / "texts.csv").write_text("\n".join(lines))
    texts_of_its_own = str(tmp_path / "texts.csv")
    data = Data(source="table", path=texts_of_its_own, calibration=texts_of_its_own)
    found = []
    for batch in (3, 12):
        job = job_on(model, f"training.batch_size={batch}")
        job = job.model_copy(update={"data": data})
        found.append(calibrate(job, samples=12, cuts=[1, 3], tokens=[2], bits=[8]))
    apart, together = found
    # How far texts are padded depends on the batch; nothing else may.
    for cut in (1, 3):
        assert apart.importance[cut].shape == (12,)
        assert apart.importance[cut] == pytest.approx(together.importance[cut], abs=1e-6)
        assert apart.importance[cut][7] == pytest.approx(1)  # the longest text has 7 after CLS
    for cut in (0, 1, 3):
        assert apart.mean_square[cut] == pytest.approx(together.mean_square[cut], rel=1e-5)
        assert apart.range_16[cut] == pytest.approx(together.range_16[cut], rel=1e-5)
    assert apart.divergence == pytest.approx(together.divergence, rel=1e-3, abs=1e-6)
    assert np.array_equal(apart.agreement, together.agreement)


def test_a_record_is_found_again_for_the_same_model_data_and_settings(
    vit: Path, cache: Path
) -> None:
    job = job_on(vit)
    assert calibration_for(job) is None
    assert not cache.exists()
    found = calibrate(job, samples=5, cuts=[1], tokens=[4], bits=[8])
    again = calibration_for(job)
    assert again is not None
    assert [file.name for file in (cache / "calibration").iterdir()] == [
        f"{found.subject.key}.json"
    ]
    for name in TABLES:
        assert np.array_equal(getattr(again, name), getattr(found, name))
    for name in ("importance", "importance_low", "importance_high"):
        assert np.array_equal(getattr(again, name)[1], getattr(found, name)[1])
    for name in ("subject", "cuts", "tokens", "bits", "mean_square", "range_16", "version"):
        assert getattr(again, name) == getattr(found, name)

    alike = ("data.train_samples=50", "seed=3", "method.uplink.bits=4", "model.cut=2")
    for setting in alike:
        assert calibration_for(change_job(job, [setting])) is not None, setting
    wire = ("method.uplink.rotate=true", "method.tokens.rest=drop")
    for setting in wire:
        other = change_job(job, [setting])
        assert calibration_for(other) is None, setting
        assert calibration_for(other, exact=False) is not None, setting
    inputs = ("model.image_size=32", "method.tokens.score=received", "model.weights=random")
    for setting in inputs:
        assert calibration_for(change_job(job, [setting]), exact=False) is None, setting


def test_the_newest_record_stands_in_where_any_will_do(vit: Path) -> None:
    job = job_on(vit)
    calibrate(change_job(job, ["method.uplink.rotate=true"]), samples=4, cuts=[1], tokens=[4])
    calibrate(change_job(job, ["method.uplink.per=tensor"]), samples=5, cuts=[1], tokens=[4])
    found = calibration_for(job, exact=False)
    assert found is not None
    assert found.samples == 5


def test_the_demos_record_comes_with_the_package() -> None:
    found = calibration_for(make_job({"method": "auto"}))
    assert found is not None, "the demo's model or images changed: calibrate it again"
    assert found.samples >= 128
    assert found.agreement[:, -1, -1] == pytest.approx(1)
    assert calibration_for(make_job({"method": "st-sflora"})) is None
    assert calibration_for(make_job({"method": "st-sflora"}), exact=False) is not None


def test_finding_a_record_imports_neither_torch_nor_figures() -> None:
    code = (
        "import sys\n"
        "from cutlayer.job import make_job\n"
        "from cutlayer.planning.calibration.record import calibration_for\n"
        "assert calibration_for(make_job({'method': 'auto'})).quality().shape[2] > 1\n"
        "for name in ('torch', 'transformers', 'matplotlib', 'pyarrow'):\n"
        "    assert name not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _swap(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[: len(text) // 2], "truncated"),
        (lambda text: _swap(text, '"samples": 64', '"samples": "many"'), "samples"),
        (lambda text: _swap(text, '"cuts": [1, 4]', '"cuts": [4, 1]'), "cuts"),
        (lambda text: _swap(text, '"bits": [2, 8, 32]', '"bits": [2, 8, 16]'), "32"),
        (lambda text: _swap(text, '"agreement": [[[', '"agreement": [[[7, '), "agreement"),
        (lambda text: _swap(text, '"agreement": [[[0.', '"agreement": [[[3.'), "agreement"),
        (lambda text: _swap(text, '"divergence": [[[', '"divergence": [[[-'), "divergence"),
        (lambda text: _swap(text, '"importance": {"1": [', '"importance": {"1": [0.5, '), "rise"),
        (lambda text: _swap(text, '"format": 1', '"format": 2'), "format"),
        (lambda text: json.dumps({"cuts": [1]}), "missing"),
    ],
)
def test_a_damaged_record_is_named_with_the_remedy(
    measured: Calibration, tmp_path: Path, damage, why: str
) -> None:
    path = write_calibration(measured, tmp_path / "record.json")
    assert np.array_equal(read_calibration(path).agreement, measured.agreement)
    path.write_text(damage(path.read_text()))
    with pytest.raises(RunError, match="cutlayer calibrate") as error:
        read_calibration(path)
    assert str(path) in str(error.value)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cache_that_cannot_be_written_is_refused_before_the_work(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "file"))
    steps: list[str] = []
    with pytest.raises(RunError, match="CUTLAYER_CACHE"):
        calibrate(job_on(vit), samples=4, progress=lambda what, done, of: steps.append(what))
    assert steps == []


def test_the_grid_spreads_over_the_models_depth_and_tokens(vit: Path) -> None:
    spec = describe(job_on(vit).model)
    assert choose_grid(spec).cuts == (0, 1, 2)
    deep = dataclasses.replace(spec, depth=12, patches=196, cut=2)
    grid = choose_grid(deep)
    assert grid.cuts == (0, 1, 2, 3, 6, 9)
    assert grid.tokens == (16, 27, 44, 73, 119, 196)
    assert grid.bits == (2, 4, 8, 32)
    assert choose_grid(dataclasses.replace(deep, cut=5)).cuts == (0, 1, 2, 3, 5, 6, 9)
    assert choose_grid(deep, [4, 0], [None], [4]).cuts == (0, 4)
    assert choose_grid(deep, [4], [8, None], [4]).tokens == (8, 196)
    assert choose_grid(deep, [4], [8], [4]).bits == (4, 32)


def test_at_the_embedding_only_all_tokens_can_be_measured(vit: Path) -> None:
    found = calibrate(job_on(vit), samples=8, cuts=[0, 1], tokens=[4, None], bits=[4])
    assert np.isnan(found.agreement[0, 0]).all()
    assert not np.isnan(found.agreement[0, 1]).any()
    assert not np.isnan(found.agreement[1]).any()
    assert found.quality()[0].tolist() == [[0.0, 0.0], [found.agreement[0, 1, 0], 1.0]]
    again = calibration_for(job_on(vit))
    assert np.array_equal(again.agreement, found.agreement, equal_nan=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"bits": [4, 12]}, "bits: 12 bits cannot be packed: take 1 to 8, 16 or 32"),
        ({"tokens": [17]}, "tokens: 17 of the 16 tokens"),
        ({"tokens": [0]}, "tokens: 0 of the 16 tokens"),
        ({"cuts": [4]}, "cuts: 4 is not within the 3 blocks"),
        ({"samples": 10**6}, "take 1 to "),
        ({"samples": 0}, "samples: 0"),
        ({"adapter": "nowhere"}, "there is no nowhere"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(
    vit: Path, options: dict, sentence: str
) -> None:
    with pytest.raises(CutlayerError, match=sentence) as error:
        calibrate(job_on(vit), **{"samples": 4, **options})
    assert "\n" not in str(error.value)


def test_a_model_whose_tokens_all_cross_is_refused(tmp_path: Path) -> None:
    for path, message in (
        (tiny_models.write_resnet(tmp_path / "resnet"), "is a ResNet, which has no attention"),
        (tiny_models.write(tmp_path / "dinov3", "dinov3_vit"), "position of each token"),
    ):
        with pytest.raises(JobError, match=message):
            choose_grid(describe(tiny_models.settings(path, 1)))


def test_noise_on_activations_is_measured_and_known(vit: Path) -> None:
    options = {"samples": 20, "cuts": [1], "tokens": [4, None], "bits": [8]}
    plain = calibrate(job_on(vit), **options)
    noisy = calibrate(job_on(vit, "privacy.activation_noise=3"), **options)
    assert (noisy.divergence > plain.divergence).all()  # whole floats of all tokens, too
    again = calibration_for(job_on(vit))
    assert again is not None
    assert again.divergence[0, -1, -1] == 0
    assert calibration_for(job_on(vit, "privacy.activation_noise=1")) is None


def test_without_tokens_to_choose_the_embedding_can_be_the_cut(vit: Path) -> None:
    found = calibrate(job_on(vit), samples=5, cuts=[0], tokens=[None], bits=[1])
    assert found.agreement.shape == (1, 1, 2)
    assert found.importance == {}
    assert set(found.range_16) == {0}


def test_a_head_finds_what_is_there_and_claims_nothing_of_noise() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    centres = rng.normal(size=(4, 300))
    features = 5 + centres[labels] + 2 * rng.normal(size=(200, 300))
    weight, bias = fit_head(features, labels, 4)
    fresh = rng.integers(0, 4, 200)
    logits = (5 + centres[fresh] + 2 * rng.normal(size=(200, 300))) @ weight.T + bias
    assert np.mean(logits.argmax(1) == fresh) > 0.9
    assert _cross_entropy(logits, fresh) < 0.4

    weight, bias = fit_head(rng.normal(size=(200, 300)), labels, 4)
    assert _cross_entropy(rng.normal(size=(200, 300)) @ weight.T + bias, fresh) < 1.1 * np.log(4)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels)
    ).item()


def test_fingerprints_are_of_contents_not_of_places(vit: Path, tmp_path: Path) -> None:
    model = job_on(vit).model
    moved = model.model_copy(update={"path": str(shutil.copytree(vit, tmp_path / "moved"))})
    assert of_model(moved, 0) == of_model(model, 0)
    weights = tmp_path / "moved" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert of_model(moved, 0) != of_model(model, 0)
    weights.unlink()
    assert of_model(moved, 0) is None
    random = model.model_copy(update={"weights": "random"})
    assert of_model(random, 0) != of_model(random, 1)

    root = tmp_path / "images"
    for name in ("cat/1.png", "dog/1.png"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"picture")
    data = Data(source="folder", path=str(root))
    first = of_data(data, 0)
    assert of_data(data, 1) != first  # another fifth is held out
    moved_data = data.model_copy(update={"path": str(shutil.copytree(root, tmp_path / "there"))})
    assert of_data(moved_data, 0) == first
    (root / "dog/1.png").rename(root / "dog/2.png")
    assert of_data(data, 0) != first
    (root / "test" / "dog").mkdir(parents=True)
    (root / "test" / "dog" / "3.png").write_bytes(b"picture")
    assert of_data(data, 1) == of_data(data, 0)
    gone = data.model_copy(update={"path": str(tmp_path / "nowhere")})
    assert of_data(gone, 0) is None


def test_models_and_data_on_the_hub_are_known_by_what_is_cached(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = job_on(vit).model
    hub = model.model_copy(update={"path": "someone/vit"})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def cached(repo: str, name: str) -> str | None:
        assert repo == "someone/vit"
        return str(vit / name) if (vit / name).is_file() else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: None)
    assert of_model(hub, 0) is None
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert of_model(hub, 0) == of_model(model, 0)

    data = Data(source="hub", path="someone/images:small")
    unknown = of_data(data, 0)
    branch = tmp_path / "datasets--someone--images" / "refs" / "main"
    branch.parent.mkdir(parents=True)
    branch.write_text("0123abcd")
    known = of_data(data, 0)
    assert None not in (unknown, known)
    assert known != unknown


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Run the command line in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["cutlayer", *map(str, words)])
    monkeypatch.setenv("COLUMNS", "80")
    before = signal.getsignal(signal.SIGTERM)
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def test_the_verb_prints_a_table_and_says_where_the_record_is(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record, figure = tmp_path / "new" / "record.json", tmp_path / "figures" / "calibration.png"
    options = ["--samples", "5", "--cuts", "1,3", "--tokens", "4,all", "--bits", "2, 8"]
    settings = [
        "--set",
        f"model.path={vit}",
        "--set",
        "model.cut=1",
        "--set",
        "data.train_samples=20",
    ]
    places = ["--out", record, "--figure", figure]
    assert run(monkeypatch, "calibrate", *settings, *options, *places) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    rows = [line.split() for line in lines]
    found = read_calibration(record)
    numbers = [f"{100 * share:.1f}" for share in found.agreement[1, 0]]
    assert ["3", "4", *numbers, f"{100 * found.importance[3][4]:.1f}"] in rows
    assert lines[0].startswith("data: ")
    assert " samples of 10 classes " in lines[0]
    assert str(cache_file(found.subject)) in printed
    assert str(figure) in printed
    assert figure.stat().st_size > 0
    assert max(len(line) for line in lines[1:] if "/" not in line and "accuracy" not in line) <= 80


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cuts", "1,two"], "--cuts: 'two' is no whole number"),
        (["--tokens", "8,,all"], "--tokens: '' is no whole number"),
        (["--bits", "9"], "bits: 9 bits cannot be packed"),
        (["--samples", "9999"], "samples: 9999 cannot be taken"),
        (["nowhere.yaml"], "there is no file nowhere.yaml"),
    ],
)
def test_the_verb_answers_bad_options_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    assert run(monkeypatch, "calibrate", *words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    # What was loaded may be said before.
    assert all(line.startswith("data:") for line in captured.out.splitlines())


@pytest.mark.usefixtures("figures")
def test_the_figure_has_a_panel_for_each_cut_with_its_numbers(
    measured: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **kwargs: object) -> None:
        drawn.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    cells = (measured.cuts, measured.tokens, measured.bits, measured.agreement)
    path = tmp_path / "figure.png"
    calibration_plot.agreement(*cells, measured.importance, measured.samples, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    panels = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "cut after block 1",
        "cut after block 4",
    ]
    attention, *by_bits = panels[1].lines
    assert attention.get_ydata()[-1] == pytest.approx(100)
    for q, line in enumerate(by_bits):
        assert line.get_xdata().tolist() == [6, 24, 49]
        assert line.get_ydata() == pytest.approx(100 * measured.agreement[1, :, q])


@pytest.mark.slow
def test_a_real_vit_loses_less_where_it_is_cut_later(
    shared_models: Path, shared_data: Path
) -> None:
    job = make_job(
        {
            "model": {"path": str(shared_models / "dinov2-small"), "image_size": 98},
            "data": {
                "source": "parquet",
                "path": str(shared_data / "cifar10"),
                "input_column": "image",
                "train_samples": 1000,
            },
            "method": "auto",
        }
    )
    found = calibrate(job, samples=48, cuts=[2, 9], tokens=[12, 30], bits=[2, 8])
    assert found.accuracy[0, -1, -1] > 0.4
    assert (found.agreement[:, -1, 1] > 0.9).all()
    assert found.agreement[1, :2, 2].mean() > found.agreement[0, :2, 2].mean() + 0.1
    assert (found.agreement[:, -1, 0] < found.agreement[:, -1, 1]).all()
