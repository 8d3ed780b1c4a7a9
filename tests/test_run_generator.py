"""Training and judging generators: exact resume, figures that tell good images from bad ones."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from cutlayer.cli import main
from cutlayer.data import diffusion
from cutlayer.data.dataset import Dataset
from cutlayer.data.sources import load
from cutlayer.errors import CutlayerError, DataError, JobError, RunError
from cutlayer.generation import scores
from cutlayer.generation import settings as named
from cutlayer.generation.evaluate import evaluate_generator
from cutlayer.generation.train import batch_rows, resume_generator, train_generator
from cutlayer.job import Job, make_job
from cutlayer.settings.generator import GeneratorSettings, GeneratorTraining
from helpers import small_job

TINY = GeneratorTraining(
    steps=6, batch_size=4, widths=(8,), fold=1, warmup=2, checkpoint_every=2, sheet_every=3
)


@pytest.fixture
def public(tmp_path: Path) -> Job:
    """A folder of four dark and four bright images, 8 x 8."""
    folder = tmp_path / "public"
    for name, low, high in (("dark", 0, 60), ("bright", 180, 255)):
        (folder / name).mkdir(parents=True)
        rng = np.random.default_rng(low)
        for i in range(5):
            pixels = rng.integers(low, high, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return make_job({"data": {"source": "folder", "path": str(folder)}})


class KilledError(Exception):
    """Stands for a killed process."""


@pytest.mark.usefixtures("figures")
def test_a_killed_training_resumed_ends_as_one_that_was_not(tmp_path: Path, public: Job) -> None:
    whole = train_generator(public, TINY, tmp_path / "whole")

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 5:  # the last checkpoint is that of step 4
            raise KilledError

    with pytest.raises(KilledError):
        train_generator(public, TINY, tmp_path / "killed", tick=kill)
    resumed = resume_generator(tmp_path / "killed")

    one, other = (load_file(folder / "state.safetensors") for folder in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(
        not torch.equal(one[key], one[key.replace("weights/", "average/")])
        for key in one
        if key.startswith("weights/")
    )
    for folder in (whole, resumed):
        sheets = sorted(path.name for path in (folder / "sheets").iterdir())
        assert sheets == ["step-000003.png", "step-000006.png"]
        first = folder / "sheets" / "step-000003.png"
        assert first.read_bytes().startswith(b"\x89PNG")
        model, unet = diffusion.load(folder)
        assert model.classes == ("bright", "dark")
        name = next(iter(unet.state_dict()))
        assert torch.equal(unet.state_dict()[name], one[f"average/{name}"])


def test_training_teaches_what_a_class_looks_like(tmp_path: Path, public: Job) -> None:
    settings = TINY.model_copy(
        update={
            "steps": 150,
            "batch_size": 16,
            "widths": (16,),
            "lr": 5e-3,
            "average": 0.9,
            "checkpoint_every": 1000,
            "sheet_every": 1000,
        }
    )
    folder = train_generator(public, settings, tmp_path / "run")
    model, unet = diffusion.load(folder)
    labels = torch.tensor([0] * 6 + [1] * 6)
    noise = torch.randn(12, *model.folded, generator=torch.Generator().manual_seed(0))
    shades = diffusion.draw(unet, model, labels, noise, 8, 1.0).float().mean(dim=(1, 2, 3))
    assert shades[:6].min() > 128 > shades[6:].max()
    losses = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in losses] == [50, 100, 150]
    assert losses[-1]["loss"] < 0.7 * losses[0]["loss"]


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 3))
def test_every_pass_shows_every_sample_once(count: int, batch: int, seed: int) -> None:
    steps = -(-2 * count // batch)
    rows = np.concatenate([batch_rows(count, batch, step, seed) for step in range(steps)])
    assert sorted(rows[:count]) == list(range(count))
    assert sorted(rows[count : 2 * count]) == list(range(count))


def test_a_frechet_distance_is_that_of_the_gaussians() -> None:
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((400, 3))
    # Whitened: mean 0 and covariance 1 exactly, so that the distances are known.
    plain -= plain.mean(axis=0)
    plain = (plain @ np.linalg.inv(np.linalg.cholesky(np.cov(plain, rowvar=False))).T).astype("f4")
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype("f4")
    other = plain * np.float32([2, 3, 1]) + np.float32([1, 0, -2])
    assert scores.frechet(plain, plain) == pytest.approx(0, abs=1e-5)
    assert scores.frechet(plain, other) == pytest.approx(1 + 4 + 1 + 4, rel=1e-4)
    assert scores.frechet(other @ turn, plain @ turn) == pytest.approx(10, rel=1e-4)


def test_the_nearest_row_is_found() -> None:
    rng = np.random.default_rng(0)
    rows, pool = (rng.standard_normal((n, 5)).astype("f4") for n in (30, 70))
    pool[11] = rows[3]
    distances, found = scores.nearest(rows, pool, chunk=7)
    every = np.linalg.norm(rows[:, None] - pool[None], axis=2)
    assert found.tolist() == every.argmin(axis=1).tolist()
    assert distances == pytest.approx(every.min(axis=1), abs=1e-6)
    assert (distances[3], found[3]) == (0, 11)


def write_folder(folder: Path, data: Dataset, names: tuple[str, ...]) -> Path:
    """`data` as a folder of images, each class under the name at its index."""
    assert isinstance(data.inputs, Tensor)
    for i, (image, label) in enumerate(zip(data.inputs, data.labels, strict=True)):
        path = folder / names[label].replace("/", "-")
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path / f"{i:04d}.png")
    return folder


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Dataset, Dataset]:
    """A job of few real images, by folder; and those it trains on and others."""
    job = small_job("data.train_samples=900", "data.test_samples=200")
    train, test = load(job.data, 0)
    classes = tuple(name.replace("/", "-") for name in train.classes)
    root = tmp_path_factory.mktemp("clothes")
    data = {
        "source": "folder",
        "path": str(write_folder(root / "train", train.subset(np.arange(700)), classes)),
        "test_path": str(write_folder(root / "test", test, classes)),
    }
    others = train.subset(np.arange(700, 900))
    return (
        make_job({"data": data}),
        Dataset(train.inputs[:700], train.labels[:700], classes),  # type: ignore[arg-type]
        Dataset(others.inputs, others.labels, classes),
    )


@pytest.mark.usefixtures("figures")
def test_figures_tell_new_images_from_copies_and_from_wrong_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clothes: tuple[Job, Dataset, Dataset]
) -> None:
    job, train, others = clothes
    network = scores.train_classifier(load(job.data, 0)[0], 0, epochs=6)
    monkeypatch.setattr(scores, "train_classifier", lambda data, seed: network)  # once is enough
    turned = train.classes[3:] + train.classes[:3]
    found = {}
    for kind, data, names in (
        ("new", others, train.classes),
        ("copies", train, train.classes),
        ("wrong", others, turned),
    ):
        folder = write_folder(tmp_path / kind, data, names)
        settings = GeneratorSettings(source="folder", path=str(folder))
        found[kind] = evaluate_generator(job, settings, tmp_path / f"{kind}-out", per_class=12)
    new, copies, wrong = found["new"], found["copies"], found["wrong"]
    assert new.accuracy["generated"] > 0.65
    assert wrong.accuracy["generated"] < 0.2
    for space in ("features", "pixels"):
        assert copies.memory[space].copies == 1
        assert copies.memory[space].generated == pytest.approx(0, abs=1e-6)
        assert new.memory[space].copies < 0.1
        assert new.memory[space].generated == pytest.approx(new.memory[space].real, rel=0.2)
    assert new.frechet["generated"] < 2 * new.frechet["real"]
    written = json.loads((tmp_path / "new-out" / "evaluation.json").read_text())
    assert written["accuracy"] == new.accuracy
    assert (tmp_path / "new-out" / "sheet.png").read_bytes().startswith(b"\x89PNG")


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Run the command line in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["cutlayer", *map(str, words)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_commands_train_then_judge_within_80_columns(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    public: Job,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    settings = ["batch_size=4", "widths=[8]", "sheet_every=50", "fold=1"]
    words = [word for setting in settings for word in ("--training", setting)]
    out = tmp_path / "run"
    data = str(public.data.path)
    words = ["--data", data, "--out", str(out), "--steps", "3", *words]
    assert run(monkeypatch, "generator", "train", *words) == 0
    printed = capsys.readouterr().out
    assert "step      3/3  loss" in printed
    assert yaml.safe_load((out / "training.yaml").read_text())["widths"] == [8]
    assert run(monkeypatch, "generator", "train", "--resume", out) == 0  # nothing is left to do
    capsys.readouterr()

    words = ["--generator", str(out), "--generator", "steps=2", "--per-class", "3"]
    scored = tmp_path / "scored"
    assert run(monkeypatch, "generator", "evaluate", "--data", data, *words, "--out", scored) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("measure") : printed.index("accuracy:")]
    assert max(map(len, table.splitlines())) <= 80
    assert "of the 8 images the generator was trained on" in printed
    assert json.loads((scored / "evaluation.json").read_text())["generator"]["steps"] == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train"], "--out: name a folder"),
        (["train", "--data", "nowhere", "--out", "run"], "--data: there is no nowhere"),
        (["train", "--resume", "nowhere"], "nowhere holds no training of a generator"),
        (["train", "--resume", "run", "--steps", "3"], "leave out everything else"),
        (["train", "--out", "run", "--training", "stpes=3"], "training.stpes: there is no such"),
        (["train", "--out", "run", "--training", "widths=[7]"], "multiples of 8"),
        (["evaluate", "--generator", "a", "--generator", "b"], "name one generator"),
        (["evaluate", "--generator", "guidance=strong"], "generator.guidance: 'strong'"),
        (["evaluate", "--generator", "no/such-model"], "cannot be loaded as a diffusers pipeline"),
    ],
)
def test_an_error_is_one_sentence_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(monkeypatch, "generator", *words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, public: Job) -> None:
    def refused(kind: type[CutlayerError], job: Job, out: Path, **settings: object) -> str:
        with pytest.raises(kind) as error:
            train_generator(job, TINY.model_copy(update=settings), out)
        return str(error.value)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert "is not empty" in refused(RunError, public, tmp_path / "full")
    assert "cannot be folded" in refused(DataError, public, tmp_path / "x", fold=3)
    assert "loss is not a number" in refused(RunError, public, tmp_path / "y", lr=1e12)
    table = tmp_path / "texts.csv"
    table.write_text("text,label\n" + "".join(f"t{i},{i % 2}\n" for i in range(20)))
    texts = make_job({"data": {"source": "table", "path": str(table)}})
    assert "draws images" in refused(DataError, texts, tmp_path / "z")


def test_a_damaged_checkpoint_is_not_resumed(tmp_path: Path, public: Job) -> None:
    folder = train_generator(public, TINY, tmp_path / "run")
    state = folder / "state.safetensors"
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(RunError, match="is damaged"):
        resume_generator(folder)
    state.unlink()
    with pytest.raises(RunError, match="has no checkpoint"):
        resume_generator(folder)


def test_a_generator_is_named_by_what_its_folder_holds(tmp_path: Path) -> None:
    trained, pipeline, images = (tmp_path / name for name in ("trained", "pipeline", "images"))
    for folder in (trained, pipeline, images):
        folder.mkdir()
    (trained / "generator.json").write_text("{}")
    (pipeline / "model_index.json").write_text("{}")
    assert named.generator([str(trained), "guidance=2"]).source == "diffusion"
    assert named.generator([str(pipeline)]).source == "diffusers"
    assert named.generator([str(images)]).source == "folder"
    assert named.generator(["someone/model"]).source == "diffusers"
    words = ["someone/model", "prompts.a.b=an a, b: c", "prompts.3=three"]
    assert named.generator(words).prompts == {"a.b": "an a, b: c", "3": "three"}
    with pytest.raises(JobError, match="needs a path"):
        named.generator(["source=folder"])
