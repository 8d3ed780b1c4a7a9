"""What a finished run is used for: tested, asked about files, exported; also by command."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cutlayer
from cutlayer.data.sources import load
from cutlayer.errors import DataError, JobError, ModelError, RunError
from cutlayer.job import change_job
from cutlayer.model.bank import Segment
from cutlayer.model.export import save_whole
from cutlayer.model.merge import auto_class, merge
from cutlayer.model.weights import load_model
from helpers import small_job
from test_run_text import job_values
from tiny_models import (
    CLASSES,
    EVERY,
    LANGUAGE,
    inputs_of,
    random_adapter,
    settings,
    unsplit_logits,
    write,
)

__all__ = ["job_values"]

FEW = ("data.train_samples=60", "data.test_samples=20", "data.partition.min_samples=4")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> cutlayer.Result:
    """A round of tsflora on the demo's images."""
    job = small_job(*FEW, "training.rounds=1", method="tsflora")
    return cutlayer.simulate(job, out=tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def photos(run: cutlayer.Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four test images in folders of their classes, as files of several kinds and sizes."""
    folder = tmp_path_factory.mktemp("photos")
    test = load(run.job.data, run.job.seed)[1]
    for number in range(4):
        image = Image.fromarray(np.asarray(test.inputs[number])[0])
        name = test.classes[test.labels[number]].replace("/", "_")
        (folder / name).mkdir(exist_ok=True)
        if number % 2:
            image = image.convert("RGB").resize((200, 100 + number))
        image.save(folder / name / f"{number}.{'jpg' if number % 2 else 'png'}")
    return folder


def command(*words: object) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "cutlayer", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


# ---- evaluate ----


def test_evaluating_a_run_gives_what_its_record_says(run: cutlayer.Result, tmp_path: Path) -> None:
    row = run.rows[-1]
    found = cutlayer.evaluate(run.folder, out=tmp_path / "found.json")
    assert found.accuracy == row.accuracy
    assert found.evaluation.samples == row.test_samples
    assert found.evaluation.confusion == row.confusion
    assert found.evaluation.macro_f1 == row.macro_f1
    assert json.loads((tmp_path / "found.json").read_text())["accuracy"] == row.accuracy
    through = cutlayer.evaluate(run.folder, through_cut=True)
    assert through.accuracy == row.accuracy_through_cut
    assert f"of {row.test_samples} samples" in found.sentences()[0]


def test_a_run_is_evaluated_on_samples_of_its_own_kind(
    run: cutlayer.Result, photos: Path, tmp_path: Path
) -> None:
    found = cutlayer.evaluate(run.folder, data=photos)
    assert found.evaluation.samples == 4
    (tmp_path / "other" / "spaceship").mkdir(parents=True)
    Image.new("L", (28, 28)).save(tmp_path / "other" / "spaceship" / "a.png")
    with pytest.raises(DataError, match="label 'spaceship', which no training sample has"):
        cutlayer.evaluate(run.folder, data=tmp_path / "other")


# ---- predict ----


def test_what_is_said_of_a_file_does_not_depend_on_the_others(
    run: cutlayer.Result, photos: Path
) -> None:
    files = sorted(photos.rglob("*.*"))
    together = cutlayer.predict(run.folder, files=[photos])
    assert sorted(one.sample for one in together) == [str(file) for file in files]
    for one in together:
        (alone,) = cutlayer.predict(run.folder, files=one.sample)
        assert alone.probabilities == pytest.approx(one.probabilities, abs=1e-5)
        assert sum(one.probabilities.values()) == pytest.approx(1)
        assert one.label == max(one.probabilities, key=one.probabilities.__getitem__)


def test_a_test_image_as_a_file_is_told_as_in_the_test_set(
    run: cutlayer.Result, photos: Path
) -> None:
    """Files of the model's own size lose nothing on their way."""
    test = load(run.job.data, run.job.seed)[1]
    for through_cut in (False, True):
        found = {
            int(Path(one.sample).stem): one
            for one in cutlayer.predict(run.folder, files=[photos], through_cut=through_cut)
        }
        assert set(found) == {0, 1, 2, 3}
    from cutlayer.inference.trained import load_trained

    trained = load_trained(run.folder)
    logits = trained.logits_of(False)(test.subset([0, 2]), 0).logits.detach().double()
    for number, row in zip((0, 2), torch.softmax(logits, 1).tolist(), strict=True):
        (one,) = cutlayer.predict(run.folder, files=next(photos.rglob(f"{number}.png")))
        assert list(one.probabilities.values()) == pytest.approx(row, abs=1e-5)


def test_a_photo_is_told_as_a_viewer_shows_it(run: cutlayer.Result, tmp_path: Path) -> None:
    """A phone writes the picture as its sensor saw it, and beside it which side is up."""
    upright = Image.fromarray(np.arange(28 * 20, dtype=np.uint8).reshape(28, 20) % 251)
    turned, orientation = upright.rotate(90, expand=True), Image.Exif()
    orientation[0x0112] = 6
    upright.save(tmp_path / "upright.png")
    turned.save(tmp_path / "phone.png", exif=orientation)
    turned.save(tmp_path / "lying.png")
    found = {
        Path(one.sample).stem: list(one.probabilities.values())
        for one in cutlayer.predict(run.folder, files=tmp_path)
    }
    assert found["phone"] == pytest.approx(found["upright"], abs=1e-6)
    assert found["lying"] != pytest.approx(found["upright"], abs=1e-6)


def test_predictions_are_printed_and_written_as_csv_and_json(
    run: cutlayer.Result, photos: Path, tmp_path: Path
) -> None:
    said = command("predict", run.folder, photos, "--format", "csv")
    assert said.returncode == 0, said.stderr
    lines = list(csv.DictReader(io.StringIO(said.stdout)))
    found = cutlayer.predict(run.folder, files=[photos])
    assert [line["class"] for line in lines] == [one.label for one in found]
    assert float(lines[0][found[0].label]) == pytest.approx(found[0].probability, abs=1e-5)
    assert command("predict", run.folder, photos, "--out", tmp_path / "p.json").returncode == 0
    values = json.loads((tmp_path / "p.json").read_text())
    assert [one["sample"] for one in values] == [one.sample for one in found]


def test_texts_are_asked_about_line_by_line(job_values: dict, tmp_path: Path) -> None:
    run = cutlayer.simulate(cutlayer.make_job(job_values), out=tmp_path / "run")
    (tmp_path / "ask.txt").write_text("a good film\n\na bad film\n")
    found = cutlayer.predict(run.folder, files=tmp_path / "ask.txt")
    assert [one.sample for one in found] == [f"{tmp_path / 'ask.txt'}:{n}" for n in (1, 3)]
    assert set(found[0].probabilities) == {"praise", "blame", "more praise"}


@pytest.mark.parametrize("kind", ["missing", "no image", "empty folder", "no files"])
def test_files_that_cannot_be_asked_about_are_one_sentence(
    run: cutlayer.Result, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "x.png"
    if kind == "no image":
        file.write_text("nothing to see")
    elif kind == "empty folder":
        file = tmp_path
    with pytest.raises(DataError) as caught:
        cutlayer.predict(run.folder, files=[] if kind == "no files" else [file])
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_finished_run_is_one_sentence(
    run: cutlayer.Result, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="holds no run"):
        cutlayer.evaluate(tmp_path)
    (tmp_path / "job.yaml").write_text((run.folder / "job.yaml").read_text())
    with pytest.raises(RunError, match="has no trained adapter yet"):
        cutlayer.evaluate(tmp_path)
    with pytest.raises(JobError, match="share one adapter"):
        cutlayer.evaluate(run.folder, device=0)


def test_where_devices_keep_their_own_adapter_one_is_named(
    run: cutlayer.Result, tmp_path: Path
) -> None:
    job = change_job(run.job, ["method=local-lora", "devices.count=2"])
    own = cutlayer.simulate(job, out=tmp_path / "own")
    with pytest.raises(JobError, match="name one, 0 to 1"):
        cutlayer.evaluate(own.folder)
    accuracy = [cutlayer.evaluate(own.folder, device=number).accuracy for number in (0, 1)]
    assert sum(accuracy) / 2 == pytest.approx(own.accuracy)
    with pytest.raises(JobError, match="does not cut the model"):
        cutlayer.evaluate(own.folder, device=0, through_cut=True)
    with pytest.raises(JobError, match=r"2 has no adapter .* take one of 0, 1"):
        cutlayer.evaluate(own.folder, device=2)


# ---- export ----


@pytest.mark.parametrize("family", [*EVERY, *LANGUAGE])
def test_plain_transformers_loads_a_merged_model_with_the_same_logits(
    tmp_path: Path, family: str
) -> None:
    import transformers

    chosen = settings(write(tmp_path / "base", family), 1)
    model = load_model(chosen, CLASSES, 0)
    adapter = random_adapter(model, 0)
    names = [f"name {number}" for number in range(CLASSES)]
    folder = save_whole(merge(adapter, model), model.spec, tmp_path / "merged", names)
    inputs = inputs_of(model, 3)
    with torch.no_grad():
        expected = model(inputs, [Segment(adapter, 3)])
        auto = auto_class(model.spec)
        assert (auto is None) == family.startswith("dinov3")  # which transformers has no class for
        if auto is not None:
            loaded = getattr(transformers, auto).from_pretrained(folder).eval()
            assert loaded.config.id2label == dict(enumerate(names))
            found = unsplit_logits(loaded, model, inputs)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_run_is_exported_alone_or_merged(run: cutlayer.Result, tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    said = command("export", run.folder, "--merged", "--out", tmp_path / "merged")
    assert said.returncode == 0, said.stderr
    assert "AutoModelForImageClassification.from_pretrained" in said.stdout
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    test = load(run.job.data, run.job.seed)[1].subset([0, 1, 2])
    from cutlayer.inference.trained import load_trained

    trained = load_trained(run.folder)
    with torch.no_grad():
        expected = trained.logits_of(False)(test, 0).logits
        found = loaded(**trained.preprocess(test.inputs)).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert list(loaded.config.id2label.values()) == list(test.classes)
    alone = cutlayer.export(run.folder, out=tmp_path / "alone")
    assert (alone.folder / "adapter_config.json").is_file()
    with pytest.raises(RunError, match="holds something already"):
        cutlayer.export(run.folder, out=tmp_path / "alone")


def test_a_run_that_trained_every_weight_is_used_alike(
    run: cutlayer.Result, tmp_path: Path
) -> None:
    job = change_job(run.job, ["method=sflora", "method.train=full", "devices.count=2"])
    full = cutlayer.simulate(job, out=tmp_path / "full")
    assert cutlayer.evaluate(full.folder).accuracy == full.accuracy
    found = cutlayer.export(full.folder, out=tmp_path / "given")
    assert "AutoModelForImageClassification" in found.loads_by
    more = change_job(job, [f"model.adapter={tmp_path / 'given'}", "training.lr=1e-9"])
    following = cutlayer.simulate(more, out=tmp_path / "next")
    assert following.accuracy == pytest.approx(full.accuracy, abs=0.051)


def test_an_adapter_of_another_model_is_not_merged(tmp_path: Path) -> None:
    chosen = settings(write(tmp_path / "base", "vit"), 1)
    model = load_model(chosen, CLASSES, 0)
    with pytest.raises(ModelError, match="has no place in"):
        merge({"elsewhere.weight": torch.zeros(1)}, model)
