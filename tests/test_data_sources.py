"""What each source reads, and the one sentence each says when it cannot."""

import builtins
import io
import json
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cutlayer.data.dataset import Dataset, holdout, stratified
from cutlayer.data.sources import SOURCES, load
from cutlayer.errors import DataError
from cutlayer.settings.data import Data


def picture(value: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (size[1], size[0]), value if mode == "L" else (value, 0, 255 - value))


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def class_folders(root: Path, per_class: dict[str, int], mode: str = "RGB") -> Path:
    for label, count in per_class.items():
        (root / label).mkdir(parents=True)
        for i in range(count):
            picture(10 * i, mode=mode).save(root / label / f"{i}.png")
    return root


def write_parquet(path: Path, images: list, labels: list, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": labels, **columns}), path)
    return path


def refusal(**fields: object) -> str:
    with pytest.raises(DataError) as why:
        load(Data(**fields), 0)
    assert "\n" not in str(why.value)
    return str(why.value)


# --- Dataset ---


def test_subset_keeps_order_and_classes():
    data = Dataset(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), np.arange(4), tuple("abcd"))
    part = data.subset([3, 1])
    assert (len(part), part.modality) == (2, "image")
    assert part.inputs.flatten().tolist() == [3, 1]
    assert part.labels.tolist() == [3, 1]
    assert part.classes == data.classes
    texts = Dataset(["a", "b"], np.array([0, 1]), ("x", "y")).subset(np.array([1]))
    assert (texts.inputs, texts.modality) == (["b"], "text")


def test_stratified_keeps_proportions_and_rare_classes():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    chosen = stratified(labels, 20, np.random.default_rng(0))
    assert len(set(chosen)) == 20
    assert np.bincount(labels[chosen]).tolist() == [17, 2, 1]
    assert len(stratified(labels, 100, np.random.default_rng(0))) == 100
    assert len(stratified(labels, 2, np.random.default_rng(0))) == 2


def test_holdout_leaves_a_sample_of_every_class():
    labels = np.array([0] * 10 + [1])
    assert labels[holdout(labels, 0.2, np.random.default_rng(0))].tolist() == [0, 0]


def test_every_source_a_job_may_name_is_described():
    assert set(SOURCES) == set(get_args(Data.model_fields["source"].annotation))


# --- demo ---


def test_demo_is_grey_28_pixels_and_balanced():
    train, test = load(Data(train_samples=100, test_samples=50), 0)
    assert train.inputs.shape == (100, 1, 28, 28)
    assert train.inputs.dtype == torch.uint8
    assert np.bincount(train.labels).tolist() == [10] * 10
    assert np.bincount(test.labels).tolist() == [5] * 10
    assert train.classes == test.classes
    assert "Trouser" in train.classes


def test_demo_without_limits_is_the_stored_arrays():
    import importlib.resources

    train, _ = load(Data(), 0)
    with np.load(importlib.resources.files("cutlayer.assets") / "fashion-mnist.npz") as stored:
        assert np.array_equal(train.inputs[:, 0].numpy(), stored["train_images"])
        assert np.array_equal(train.labels, stored["train_labels"])


def test_the_chosen_part_belongs_to_the_seed():
    parts = [load(Data(train_samples=50, test_samples=50), seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(parts[0].inputs, parts[1].inputs)
    assert not torch.equal(parts[0].inputs, parts[2].inputs)


def test_demo_refuses_paths_and_sizes_beyond_it():
    assert "data.source='demo'" in refusal(path="images")
    assert "data.train_samples=5 leaves" in refusal(train_samples=5)
    assert "take at most" in refusal(train_samples=10**6)


# --- parquet ---


def test_parquet_reads_real_cifar_with_its_class_names(shared_data):
    path = str(shared_data / "cifar10")
    train, test = load(Data(source="parquet", path=path, train_samples=100, test_samples=40), 0)
    assert train.inputs.shape == (100, 3, 32, 32)
    assert np.bincount(test.labels).tolist() == [4] * 10
    assert train.classes[:3] == ("airplane", "automobile", "bird")


def test_parquet_files_of_one_folder_give_train_and_test(tmp_path):
    red, blue = encoded(picture(255)), encoded(picture(0))
    cells = [{"bytes": red, "path": "a"}, {"bytes": blue, "path": "b"}]
    write_parquet(tmp_path / "data/train-0.parquet", cells, [7, 3])
    write_parquet(tmp_path / "data/train-1.parquet", cells, [7, 10])
    write_parquet(tmp_path / "data/test-0.parquet", cells[:1], [10])
    write_parquet(tmp_path / "data/validation-0.parquet", cells, [3, 3])
    train, test = load(Data(source="parquet", path=str(tmp_path)), 0)
    assert train.classes == ("3", "7", "10")
    assert train.labels.tolist() == [1, 0, 1, 2]
    assert test.labels.tolist() == [2]
    assert train.inputs[:, 0, 0, 0].tolist() == [255, 0, 255, 0]


def test_images_of_unequal_size_and_mode_become_the_median_size_in_rgb(tmp_path):
    shapes = [(6, 10), (8, 8), (8, 12), (40, 40), (2, 2)]
    images = [encoded(picture(90, shape)) for shape in shapes]
    path = write_parquet(tmp_path / "a.parquet", images, [0, 1, 0, 1, 0])
    grey = [encoded(picture(90, (9, 9), "L"))]
    test_path = write_parquet(tmp_path / "b.parquet", grey, [1])
    train, test = load(Data(source="parquet", path=str(path), test_path=str(test_path)), 0)
    assert train.inputs.shape == (5, 3, 8, 10)
    assert test.inputs.shape == (1, 3, 8, 10)
    assert torch.equal(test.inputs, torch.full((1, 3, 8, 10), 90, dtype=torch.uint8))
    assert train.inputs[:, 2].unique().tolist() == [165]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    path = write_parquet(tmp_path / "a.parquet", [encoded(deep)] * 4, [0, 1, 0, 1])
    train, _ = load(Data(source="parquet", path=str(path), test_path=str(path)), 0)
    assert train.inputs.shape == (4, 1, 4, 4)
    assert train.inputs.unique().tolist() == [128]


def test_without_a_model_photographs_are_held_within_the_longest_edge(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [encoded(picture(9, (600, 1024)))] * 2, [0, 1])
    train, _ = load(Data(source="parquet", path=str(path), test_path=str(path)), 0)
    assert train.inputs.shape == (2, 3, 150, 256)


def test_without_test_data_a_fifth_of_every_class_is_held_out(tmp_path):
    images = [encoded(picture(value)) for value in range(50)]
    path = write_parquet(tmp_path / "a.parquet", images, [0] * 20 + [1] * 30)
    data = Data(source="parquet", path=str(path))
    train, test = load(data, 0)
    assert np.bincount(train.labels).tolist() == [16, 24]
    assert np.bincount(test.labels).tolist() == [4, 6]
    seen = torch.cat([train.inputs, test.inputs])[:, 0, 0, 0].tolist()
    assert sorted(seen) == list(range(50))
    assert torch.equal(load(data, 0)[1].inputs, test.inputs)
    assert not torch.equal(load(data, 1)[1].inputs, test.inputs)


def test_parquet_of_texts_is_read_as_text(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["good", "bad"], "label": [1.0, 0.0]}), path)
    train, test = load(Data(source="parquet", path=str(path), test_path=str(path)), 0)
    assert (train.inputs, train.labels.tolist()) == (["good", "bad"], [1, 0])
    assert test.classes == ("0", "1")


def test_parquet_refusals_name_field_value_and_what_is_there(tmp_path):
    images = [encoded(picture(value)) for value in range(4)]
    good = str(write_parquet(tmp_path / "good.parquet", images, [0, 1, 0, 1]))

    def say(path: Path | str, **fields: object) -> str:
        return refusal(source="parquet", path=str(path), **fields)

    assert "data.path='/nowhere' does not exist" in say("/nowhere")
    assert "data.test_path='/nowhere'" in say(good, test_path="/nowhere")
    wrong = say(good, label_column="y")
    assert "data.label_column='y'" in wrong
    assert "available: image, label" in wrong
    assert "data.input_column='x'" in say(good, input_column="x")
    (tmp_path / "empty").mkdir()
    assert "no .parquet file" in say(tmp_path / "empty")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not really")
    assert "broken.parquet cannot be read as parquet" in say(broken)
    none = write_parquet(tmp_path / "n.parquet", images[:2], [0, None])
    assert "row 2, has no label" in say(none)
    nan = write_parquet(tmp_path / "nan.parquet", images[:2], [0.0, float("nan")])
    assert "row 2, has no label (nan)" in say(nan)
    half = write_parquet(tmp_path / "half.parquet", images[:2], [0.0, 0.5])
    assert "label 0.5" in say(half)
    zero = tmp_path / "zero.parquet"
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "label": pa.array([])}), zero)
    assert "zero.parquet holds no samples" in say(zero)
    single = write_parquet(tmp_path / "one.parquet", images, [5] * 4)
    assert "single class '5'" in say(single)
    extra = write_parquet(tmp_path / "extra.parquet", images, [0, 1, 2, 3])
    unseen = say(good, test_path=str(extra))
    assert "extra.parquet, row 3, has the label '2'" in unseen
    assert "(0, 1)" in unseen
    rotten = write_parquet(tmp_path / "rotten.parquet", [*images[:3], b"text"], [0, 1, 0, 1])
    assert "row 4, is not an image" in say(rotten, test_path=good)
    noise = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)))
    cut = write_parquet(tmp_path / "cut.parquet", [*images[:3], noise[:900]], [0, 1, 0, 1])
    assert "row 4, is an image that cannot be decoded" in say(cut, test_path=good)
    void = write_parquet(tmp_path / "void.parquet", [*images[:3], None], [0, 1, 0, 1])
    assert "row 4, holds no image" in say(void, test_path=good)
    assert "too few" in say(write_parquet(tmp_path / "two.parquet", images[:2], [0, 1]))


# --- folder ---


def test_folder_reads_class_folders_and_ignores_hidden_files(tmp_path):
    class_folders(tmp_path / "train", {"cat": 3, "ant": 2}, "L")
    class_folders(tmp_path / "test", {"cat": 1})
    (tmp_path / "train/.DS_Store").write_text("x")
    (tmp_path / "train/cat/.hidden").write_text("x")
    train, test = load(Data(source="folder", path=str(tmp_path)), 0)
    assert train.classes == test.classes == ("ant", "cat")
    assert train.labels.tolist() == [0, 0, 1, 1, 1]
    assert test.labels.tolist() == [1]
    assert train.inputs.shape == (5, 3, 8, 8)  # one test image is in colour


def test_grey_folder_stays_one_channel_and_classes_come_in_the_order_of_their_folders(tmp_path):
    class_folders(tmp_path, {"9": 5, "10": 5}, "L")
    train, test = load(Data(source="folder", path=str(tmp_path)), 0)
    assert train.inputs.shape == (8, 1, 8, 8)
    assert test.classes == ("10", "9")  # as torchvision's ImageFolder and datasets have them
    assert "ordered by the names of their folders" in train.report.line


def test_a_class_may_be_called_train(tmp_path):
    class_folders(tmp_path, {"train": 5, "bus": 5})
    assert load(Data(source="folder", path=str(tmp_path)), 0)[0].classes == ("bus", "train")


def test_folder_refusals_name_the_file_and_the_remedy(tmp_path):
    root = class_folders(tmp_path / "root", {"cat": 5, "dog": 5})
    path = str(root)

    def say() -> str:
        return refusal(source="folder", path=path)

    note = root / "cat/notes.txt"
    note.write_text("not an image")
    assert f"{note} is not an image" in say()
    assert "move it" in say()
    note.rename(root / "cat/notes.png")
    assert "cat/notes.png is not an image" in refusal(source="folder", path=path, test_path=path)
    (root / "cat/notes.png").rename(root / "readme.md")
    assert "readme.md lies beside the class folders" in say()
    (root / "readme.md").unlink()
    (root / "owl").mkdir()
    assert "owl holds no images" in say()
    (root / "owl").rmdir()
    class_folders(tmp_path / "other", {"emu": 1})
    other = str(tmp_path / "other")
    assert "'emu', which no training sample has" in refusal(
        source="folder", path=path, test_path=other
    )
    assert "is a file" in refusal(source="folder", path=str(root / "cat/0.png"))
    (tmp_path / "void").mkdir()
    assert "no class folders" in refusal(source="folder", path=str(tmp_path / "void"))


# --- table ---


def test_csv_and_jsonl_give_the_same_texts(tmp_path):
    rows = [("fine, really", "pos"), ('a "quote"\nand a line', "neg"), ("ok", "pos")]
    quoted = "".join(f'"{text.replace(chr(34), chr(34) * 2)}",{label}\n' for text, label in rows)
    (tmp_path / "a.csv").write_text("text,label\n" + quoted)
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n")
    table = Data(source="table", path=str(tmp_path / "a.csv"), test_path=str(tmp_path / "a.jsonl"))
    train, test = load(table, 0)
    assert train.inputs == test.inputs == [text for text, _ in rows]
    assert train.labels.tolist() == test.labels.tolist() == [1, 0, 1]
    assert (train.classes, train.modality) == (("neg", "pos"), "text")


def test_table_refusals_name_file_row_and_columns(tmp_path):
    def say(name: str, content: str | bytes, **fields: object) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return refusal(source="table", path=str(path), **fields)

    missing = say("a.csv", "body,label\nx,1\n")
    assert "none of the columns image, img, text, sentence" in missing
    assert "available: body, label" in missing
    assert "row 2, has no label" in say("b.csv", "text,label\nx,1\ny,\n")
    assert "row 2, has no label" in say("c.csv", "text,label\nx,1\ny,NaN\n")
    assert "c2.csv holds no samples" in say("c2.csv", "text,label\n")
    assert "row 1 (line 2), has 3 values for 2 columns" in say("d.csv", "text,label\nx,1,2\n")
    assert "data.encoding" in say("e.csv", b"text,label\n\xff\xfe,1\n")
    assert "f.csv is empty" in say("f.csv", "")
    assert "line 2, is not JSON" in say("a.jsonl", '{"text": "x", "label": 1}\n{"text"\n')
    assert "line 1, is not a JSON object" in say("b.jsonl", "[1]\n")
    assert "data.label_column='label'" in say("c.jsonl", '{"text": "x"}\n')
    assert "line 1, has no label (None)" in say("d.jsonl", '{"text": "x", "label": null}\n')
    assert "holds 5 where a text is due" in say(
        "e.jsonl",
        '{"text": 5, "label": 1}\n{"text": "x", "label": 0}\n',
        test_path=str(tmp_path / "e.jsonl"),
    )


# --- hub ---


def test_hub_without_its_package_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install cutlayer[datasets]" in refusal(source="hub", path="cifar10")


def test_hub_reads_saved_datasets_with_their_class_names(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra cutlayer[datasets]")
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])}
    )

    def split(labels: list[int]) -> object:
        images = [picture(10 * i) for i in range(len(labels))]
        return datasets.Dataset.from_dict({"img": images, "label": labels}, features=features)

    saved = datasets.DatasetDict(
        {
            "train": split([0, 1, 0]),
            "validation": split([1]),
            "test": split([0, 1]),
            "hidden": split([-1]),
        }
    )
    saved.save_to_disk(tmp_path / "saved")
    data = Data(source="hub", path=str(tmp_path / "saved"))
    train, test = load(data, 0)
    assert train.classes == ("zebra", "ant")
    assert train.labels.tolist() == [0, 1, 0]
    assert train.inputs[:, 0, 0, 0].tolist() == [0, 10, 20]
    assert test.labels.tolist() == [0, 1]
    chosen = load(data.model_copy(update={"test_path": "validation"}), 0)[1]
    assert chosen.labels.tolist() == [1]
    wrong = refusal(source="hub", path=str(tmp_path / "saved"), test_path="dev")
    assert "has the splits train, validation, test, hidden" in wrong
    unlabelled = refusal(source="hub", path=str(tmp_path / "saved"), test_path="hidden")
    assert "label -1, outside the 2 named classes" in unlabelled


def test_hub_refuses_a_folder_without_data(tmp_path):
    pytest.importorskip("datasets", reason="needs the extra cutlayer[datasets]")
    assert "cannot be loaded as a Hugging Face dataset" in refusal(source="hub", path=str(tmp_path))
