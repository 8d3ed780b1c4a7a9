"""Exported adapters are PEFT's: PeftModel loads them and gives the same logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cutlayer import files
from cutlayer.errors import ModelError
from cutlayer.model import export
from cutlayer.model.bank import Segment
from cutlayer.model.export import load_adapter, save_adapter
from cutlayer.model.weights import load_model
from tiny_models import (
    CLASSES,
    EVERY,
    LANGUAGE,
    hugging_face,
    inputs_of,
    random_adapter,
    settings,
    unsplit_logits,
    with_peft,
    write,
)

BATCH = 3


@pytest.mark.parametrize(
    ("family", "side"),
    [(name, "both") for name in (*EVERY, *LANGUAGE)]
    + [(name, side) for name in ("vit", "bert") for side in ("device", "server")],
)
def test_peft_loads_the_export_and_gives_the_same_logits(
    tmp_path: Path, family: str, side: str
) -> None:
    from peft import PeftModel

    path = write(tmp_path / "base", family)
    model = load_model(settings(path, 1, {"side": side}), CLASSES, 0)
    adapter = random_adapter(model, 0)
    inputs = inputs_of(model, BATCH)
    with torch.no_grad():
        expected = model(inputs, [Segment(adapter, BATCH)])
        base = unsplit_logits(hugging_face(model), model, inputs)
        folder = save_adapter(adapter, model, tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(hugging_face(model), folder).eval()
        found = unsplit_logits(loaded, model, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(base, expected, atol=1e-2)


def test_a_drawn_pooler_travels_with_the_adapter(tmp_path: Path) -> None:
    from peft import PeftModel

    path = write(tmp_path / "base", "bert")
    state = load_file(path / "model.safetensors")
    kept = {key: value for key, value in state.items() if "pooler" not in key}
    save_file(kept, path / "model.safetensors", {"format": "pt"})
    model = load_model(settings(path), CLASSES, 0)
    adapter, inputs = random_adapter(model, 0), inputs_of(model, BATCH)
    folder = save_adapter(adapter, model, tmp_path / "adapter")
    with torch.no_grad():
        expected = model(inputs, [Segment(adapter, BATCH)])
        loaded = PeftModel.from_pretrained(hugging_face(model), folder).eval()
        torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
        other = load_model(settings(path), CLASSES, 1)
        found = load_adapter(folder, other)
        assert found.keys() == adapter.keys()
        again = other(inputs, [Segment(found, BATCH)])
        torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["distilled", "dinov3_vit", "clip"])
def test_an_adapter_loads_on_what_the_auto_class_makes(tmp_path: Path, family: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    path = write(tmp_path / "base", family)
    model = load_model(settings(path), CLASSES, 0)
    adapter, inputs = random_adapter(model, 0), inputs_of(model, BATCH)
    folder = save_adapter(adapter, model, tmp_path / "adapter")
    base = AutoModelForImageClassification.from_pretrained(path, num_labels=CLASSES)
    with torch.no_grad():
        found = PeftModel.from_pretrained(base, folder).eval()(**inputs).logits
        expected = model(inputs, [Segment(adapter, BATCH)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_keys_and_config_are_those_that_peft_writes(tmp_path: Path) -> None:
    model = load_model(settings(write(tmp_path / "base", "vit")), CLASSES, 0)
    adapter = random_adapter(model, 0)
    with_peft(model, adapter).save_pretrained(tmp_path / "theirs")
    save_adapter(adapter, model, tmp_path / "ours")
    tensors = []
    for name in ("ours", "theirs"):
        with safe_open(tmp_path / name / export.WEIGHTS, framework="pt") as file:
            tensors.append({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])
    ours, theirs = (
        json.loads((tmp_path / name / export.CONFIG).read_text()) for name in ("ours", "theirs")
    )
    for key in ("peft_type", "r", "lora_alpha", "lora_dropout", "modules_to_save", "bias"):
        assert ours[key] == theirs[key], key
    assert sorted(ours["target_modules"]) == sorted(theirs["target_modules"])


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model = load_model(settings(write(tmp_path / "base", "dinov2")), CLASSES, 0)
    adapter = random_adapter(model, 0)
    found = load_adapter(save_adapter(adapter, model, tmp_path / "adapter"), model)
    assert found.keys() == adapter.keys()
    assert all(torch.equal(found[key], adapter[key]) for key in adapter)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "base", "vit")
    model = load_model(settings(path), CLASSES, 0)
    folder = save_adapter(model.new_adapter(0), model, tmp_path / "adapter")
    for change, message in (
        ({"lora": {"rank": 2}}, r"model\.lora\.rank: 2 but .* was trained with 4"),
        ({"lora": {"targets": ("k_proj",)}}, "lacks|has an unknown tensor"),
        ({"lora": {"alpha": 7.0}}, r"model\.lora\.alpha: 7\.0 but"),
    ):
        with pytest.raises(ModelError, match=message):
            load_adapter(folder, load_model(settings(path, **change), CLASSES, 0))
    with pytest.raises(ModelError, match="lacks"):
        save_adapter({}, model, tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_an_adapter_that_peft_saved_is_loaded(tmp_path: Path) -> None:
    model = load_model(settings(write(tmp_path / "base", "vit")), CLASSES, 0)
    adapter = random_adapter(model, 0)
    with_peft(model, adapter).save_pretrained(tmp_path / "theirs")
    found = load_adapter(tmp_path / "theirs", model, ["a"] * CLASSES)
    assert found.keys() == adapter.keys()
    assert all(torch.equal(found[key], adapter[key]) for key in adapter)


def test_an_adapter_with_the_names_of_older_models_is_loaded(tmp_path: Path) -> None:
    """Checkpoints of ViT once called their layers encoder.layer.N.attention.attention.query."""
    model = load_model(settings(write(tmp_path / "base", "vit")), CLASSES, 0)
    adapter = random_adapter(model, 0)
    folder = save_adapter(adapter, model, tmp_path / "adapter")
    names = (
        (".layers.", ".encoder.layer."),
        (".q_proj.", ".attention.query."),
        (".v_proj.", ".attention.value."),
    )
    older = {}
    with safe_open(folder / export.WEIGHTS, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118
            name = key
            for now, then in names:
                name = name.replace(now, then)
            older[name] = file.get_tensor(key)
    assert older.keys() != {export.PREFIX + key for key in adapter}
    save_file(older, folder / export.WEIGHTS)
    found = load_adapter(folder, model)
    assert all(torch.equal(found[key], adapter[key]) for key in adapter)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"use_dora": True}, "use_dora, which does not compute"),
        ({"use_rslora": True}, "use_rslora"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"bias": "all"}, "also trained biases"),
        ({"peft_type": "IA3"}, "of PEFT's type 'IA3'"),
    ],
)
def test_an_adapter_that_computes_otherwise_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    model = load_model(settings(write(tmp_path / "base", "vit")), CLASSES, 0)
    folder = save_adapter(model.new_adapter(0), model, tmp_path / "adapter")
    config = json.loads((folder / export.CONFIG).read_text())
    (folder / export.CONFIG).write_text(json.dumps(config | changed))
    with pytest.raises(ModelError, match=message):
        load_adapter(folder, model)


def test_an_adapter_without_head_or_with_other_classes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "base", "vit")
    model = load_model(settings(path), CLASSES, 0)
    names = list("abcde")
    folder = save_adapter(model.new_adapter(0), model, tmp_path / "adapter", names)
    load_adapter(folder, model, names)
    with pytest.raises(ModelError, match=r"class 0 of .* is 'a' but the data's is 'b'"):
        load_adapter(folder, model, list("bacde"))
    with pytest.raises(ModelError, match="tells 5 classes apart but the data has 6"):
        load_adapter(folder, load_model(settings(path), CLASSES + 1, 0))
    with safe_open(folder / export.WEIGHTS, framework="pt") as file:
        headless = {key: file.get_tensor(key) for key in file.keys() if "lora" in key}  # noqa: SIM118
    save_file(headless, folder / export.WEIGHTS)
    with pytest.raises(ModelError, match=r"lacks classifier\.weight, the head"):
        load_adapter(folder, model)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = load_model(settings(write(tmp_path / "base", "vit")), CLASSES, 0)
    adapter = model.new_adapter(0)
    adapter["classifier.bias"][0] = float("nan")
    with pytest.raises(ModelError, match=r"classifier\.bias of .* is not finite"):
        load_adapter(save_adapter(adapter, model, tmp_path / "adapter"), model)


@pytest.mark.parametrize("damage", ["missing", "cut short", "no config"])
def test_a_damaged_export_is_one_sentence(tmp_path: Path, damage: str) -> None:
    model = load_model(settings(write(tmp_path / "base", "vit")), CLASSES, 0)
    folder = save_adapter(model.new_adapter(0), model, tmp_path / "adapter")
    file = folder / export.WEIGHTS
    if damage == "missing":
        file.unlink()
    elif damage == "cut short":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        (folder / export.CONFIG).unlink()
    with pytest.raises(ModelError, match="adapter: ") as caught:
        load_adapter(folder, model)
    assert "\n" not in str(caught.value)


def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(settings(write(tmp_path / "base", "vit")), CLASSES, 0)
    folder = save_adapter(model.new_adapter(0), model, tmp_path / "adapter")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(random_adapter(model, 1), model, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_the_names_of_the_classes_lie_beside_an_adapter(tmp_path: Path) -> None:
    model = load_model(settings("demo", 1, {}), 3, 0)
    folder = save_adapter(model.new_adapter(0), model, tmp_path, ("cat", "\u0101nt", "10"))
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    assert labels["id2label"] == {"0": "cat", "1": "\u0101nt", "2": "10"}
    assert labels["label2id"] == {"cat": 0, "\u0101nt": 1, "10": 2}
