"""Checkpoints: only the wanted tensors are read, under old names and new, and faults are told."""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cutlayer.errors import ModelError
from cutlayer.model import files, weights
from cutlayer.model.bank import Segment
from cutlayer.model.families import FAMILIES, SUPPORTED, describe
from cutlayer.model.weights import load_model
from peak_memory import peaks_of
from tiny_models import (
    CLASSES,
    CONFIGS,
    EVERY,
    LANGUAGE,
    build,
    family_of,
    hugging_face,
    inputs_of,
    random_adapter,
    settings,
    write,
)


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A model's frozen tensors, under Hugging Face's names."""
    named = {k.replace(".base.", "."): v for k, v in module.state_dict().items()}
    heads = ("classifier", "cls_class", "distillation_class", "pre_classifier", "pooler")
    return {k: v for k, v in named.items() if not k.startswith(heads)}


@pytest.mark.parametrize("bare", [False, True], ids=["classification class", "bare model"])
@pytest.mark.parametrize("family", [*EVERY, *LANGUAGE])
def test_every_tensor_is_that_of_from_pretrained(tmp_path: Path, family: str, bare: bool) -> None:
    model = build(family)
    kind = family_of(family)
    # A bare encoder has no neck; towers and variants are known by the whole model's config.
    if bare and (FAMILIES[kind].section or kind == "modernbert" or family == "distilled"):
        pytest.skip("only the whole model's folder says what it is")
    if bare and family in LANGUAGE and not model.config.tie_word_embeddings:
        pytest.skip("a head of its own is in the whole model's folder only")
    (getattr(model, FAMILIES[kind].base) if bare else model).save_pretrained(tmp_path)
    loaded = load_model(settings(tmp_path), CLASSES, 0)
    expected = _tensors(hugging_face(loaded))
    unused = tuple(f"{loaded.spec.parts.base}.{path}" for path in loaded.spec.parts.unused)
    expected = {
        key: value
        for key, value in expected.items()
        if "mask_token" not in key and not key.startswith(unused)
    }
    found = _tensors(loaded.module)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "dinov2_with_registers", "bert"])
def test_todays_names_load_as_old_ones_do(tmp_path: Path, family: str) -> None:
    old = write(tmp_path / "old", family)
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(old / "config.json", new)
    state = {key: value.contiguous() for key, value in build(family).state_dict().items()}
    save_file(state, new / weights.SINGLE)
    if family != "bert":  # whose names never changed
        assert load_file(old / weights.SINGLE).keys() != state.keys()
    found, expected = (
        _tensors(load_model(settings(path), CLASSES, 0).module) for path in (new, old)
    )
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def _shards(folder: Path, family: str = "vit") -> Path:
    build(family).save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


def test_sharded_checkpoints_load_and_only_the_needed_shards_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single, sharded = write(tmp_path / "single", "vit"), _shards(tmp_path / "sharded")
    found, expected = (
        _tensors(load_model(settings(path), CLASSES, 0).module) for path in (sharded, single)
    )
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    opened: list[Path] = []
    real = weights._opened
    monkeypatch.setattr(weights, "_opened", lambda file: opened.append(file) or real(file))
    load_model(settings(sharded, 0), CLASSES, 0, "device")
    assert 0 < len(set(opened)) < len(list(sharded.glob("*.safetensors")))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_language_models_load_from_shards_of_half_precision(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    build(family).to(dtype).save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    loaded = load_model(settings(tmp_path), CLASSES, 0)
    found, expected = _tensors(loaded.module), _tensors(build(family).to(dtype))
    assert all(torch.equal(found[key], expected[key].float()) for key in expected)


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_both_parts_hold_a_table_that_embedding_and_head_share(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = write(tmp_path, family), dict[str, dict[str, int]]()
    real = weights.safe_open
    for part in ("whole", "device", "server"):
        counter = read.setdefault(part, {})
        monkeypatch.setattr(
            weights, "safe_open", lambda *a, c=counter, **k: _Counting(real(*a, **k), c)
        )
        model = load_model(settings(path, 1), CLASSES, 0, part)  # type: ignore[arg-type]
        if part == "whole":
            tables = [model.module.lm_head.weight, model.module.model.embed_tokens.weight]
            assert (tables[0] is tables[1]) == (family == "llama-tied")
    both = read["device"].keys() & read["server"].keys()
    assert both == ({"model.embed_tokens.weight"} if family == "llama-tied" else set())
    assert read["device"].keys() | read["server"].keys() == read["whole"].keys()


class _Counting:
    """An open safetensors file that counts the bytes taken from it."""

    def __init__(self, file: Any, read: dict[str, int]) -> None:
        self.file, self.read = file, read

    def keys(self) -> list[str]:
        return list(self.file.keys())

    def get_tensor(self, key: str) -> torch.Tensor:
        value = self.file.get_tensor(key)
        self.read[key] = value.nbytes
        return value

    def __enter__(self) -> "_Counting":
        self.file.__enter__()
        return self

    def __exit__(self, *fault: Any) -> None:
        self.file.__exit__(*fault)


def test_a_part_reads_its_own_bytes_only(
    shared_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = shared_models / "dinov2-small", dict[str, dict[str, int]]()
    real = weights.safe_open
    for part in ("whole", "device", "server"):
        counter = read.setdefault(part, {})
        monkeypatch.setattr(
            weights, "safe_open", lambda *a, c=counter, **k: _Counting(real(*a, **k), c)
        )
        load_model(settings(path, 2, image_size=56), CLASSES, 0, part)  # type: ignore[arg-type]
    assert read["device"].keys() | read["server"].keys() == read["whole"].keys()
    assert not read["device"].keys() & read["server"].keys()
    blocks = {re.search(r"layer\.(\d+)", key) for key in read["device"]}
    assert {found[1] for found in blocks if found} == {"0", "1"}
    stored = load_file(path / weights.SINGLE)
    for part, keys in read.items():
        assert sum(keys.values()) == sum(stored[key].nbytes for key in keys), part
    assert sum(read["device"].values()) < 0.25 * sum(read["whole"].values())


MEMORY = r"""
from cutlayer.job import Model
from cutlayer.model.weights import load_model

def measure(path, part):
    load_model(Model(path=path, image_size=56, cut=2), 10, 0, part)
    return 0
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_device_process_has_no_memory_of_the_rest(shared_models: Path) -> None:
    path = str(shared_models / "dinov2-small")
    whole, device = peaks_of(MEMORY, (path, "whole"), (path, "device"))
    print(f"whole {whole}, device {device}")
    assert device.net < 0.4 * whole.net


def test_random_weights_belong_to_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path, "vit")
    (path / weights.SINGLE).unlink()
    job = settings(path, weights="random")
    before = torch.random.get_rng_state()
    one, again, other = (load_model(job, CLASSES, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    key = "vit.layers.1.mlp.fc1.weight"
    tensors = [_tensors(model.module)[key] for model in (one, again, other)]
    assert torch.equal(tensors[0], tensors[1])
    assert not torch.equal(tensors[0], tensors[2])
    assert tensors[0].std() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_loading_leaves_the_default_of_other_threads_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """A server makes programs of float16 while its other threads compute."""
    seen = set()
    built = nn.Linear.__init__

    def watched(layer: nn.Linear, *given: Any, **settings: Any) -> None:
        elsewhere = threading.Thread(target=lambda: seen.add(torch.zeros(1).dtype))
        elsewhere.start()
        elsewhere.join()
        built(layer, *given, **settings)

    monkeypatch.setattr(nn.Linear, "__init__", watched)
    load_model(settings(write(tmp_path, "bert")), 3, 0, dtype=dtype)
    assert seen == {torch.float32}


def test_everything_is_frozen_and_in_the_asked_dtype(tmp_path: Path) -> None:
    for family in ("vit", "clip", "modernbert", "deberta-v2", "dinov3_vit"):
        path = write(tmp_path / family, family)
        for kind in ("pretrained", "random"):
            job = settings(path, weights=kind)
            model = load_model(job, CLASSES, 0, dtype=torch.float64)
            for parameter in model.module.parameters():
                assert not parameter.requires_grad
                assert parameter.dtype == torch.float64
            assert not any(module.training for module in model.module.modules())


def _damage(path: Path, how: str) -> None:
    file = path / weights.SINGLE
    if how == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "noise":
        file.write_bytes(bytes(range(256)) * 40)
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "other shape":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    elif how == "tensor gone":
        state = load_file(file)
        state.pop(next(key for key in state if "layer.2" in key))
        save_file(state, file)
    elif how == "pickled":
        file.rename(path / "pytorch_model.bin")
    elif how == "no weights":
        file.unlink()
    elif how == "no config":
        (path / "config.json").unlink()
    elif how == "config is no JSON":
        (path / "config.json").write_text("{")
    elif how == "config is odd":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    elif how == "another family":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "model_type": "swin"}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut short", "is not a whole safetensors file"),
        ("noise", "is not a whole safetensors file"),
        ("empty", "is not a whole safetensors file"),
        ("other shape", "has shape .* but config.json asks for"),
        ("tensor gone", r"lacks 1 tensors, the first vit\.layers\.2"),
        ("pickled", "only pickled weights"),
        ("no weights", "holds no weights"),
        ("no config", "has no config.json"),
        ("config is no JSON", "cannot be read"),
        ("config is odd", "makes no vit model"),
        ("another family", "is of type 'swin': supported are vit, deit, dinov2"),
    ],
)
def test_a_bad_checkpoint_is_one_sentence(tmp_path: Path, how: str, message: str) -> None:
    path = write(tmp_path / "model", "vit")
    _damage(path, how)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(settings(path), CLASSES, 0)
    assert str(caught.value).startswith("model.path: ")
    assert "\n" not in str(caught.value)


def test_a_shard_outside_the_folder_is_not_opened(tmp_path: Path) -> None:
    path = _shards(tmp_path / "model")
    index = json.loads((path / weights.INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../elsewhere.safetensors")
    (path / weights.INDEX).write_text(json.dumps(index))
    shutil.copy(next(path.glob("*.safetensors")), tmp_path / "elsewhere.safetensors")
    with pytest.raises(ModelError, match=r"lacks its file \.\./elsewhere"):
        load_model(settings(path), CLASSES, 0)


def test_settings_that_do_not_fit_are_refused_from_the_config_alone(tmp_path: Path) -> None:
    vit, bert = write(tmp_path / "vit", "vit"), write(tmp_path / "bert", "bert")
    (vit / weights.SINGLE).unlink()
    for job, message in (
        (settings(vit, 4), r"model\.cut: 4 is beyond the 3 blocks"),
        (settings(vit, image_size=18), r"model\.image_size: 18 .* take 16 or 20"),
        (settings(bert, max_tokens=21), r"model\.max_tokens: 21 is more than the 20 positions"),
        (settings(tmp_path / "none"), r"model\.path: there is no folder"),
    ):
        with pytest.raises(ModelError, match=message):
            describe(job, CLASSES)


def test_describe_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    path = write(tmp_path, "vit")
    code = (
        "import sys\n"
        "from types import SimpleNamespace as Box\n"
        "from cutlayer.model.families import describe\n"
        "from cutlayer.model import cost\n"
        f"model = Box(path={str(path)!r}, weights='pretrained', image_size=None, max_tokens=9,\n"
        "            aspect='checkpoint', cut=1, tail=None, frozen_bits=32,\n"
        "            lora=Box(targets='auto', rank=4, side='both'))\n"
        "spec = describe(model, 5)\n"
        "assert cost.whole_cost(spec).forward_flops > 0\n"
        "assert (spec.depth, spec.width, spec.tokens) == (3, 24, 17)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_hub_name_is_downloaded_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    write(tmp_path, "vit")
    asked: list[str] = []

    def download(repo: str, name: str) -> str:
        assert repo == "someone/tiny-vit"
        asked.append(name)
        if not (tmp_path / name).exists():
            raise EntryNotFoundError(name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = load_model(settings("someone/tiny-vit"), CLASSES, 0)
    adapter = random_adapter(model, 0)
    assert model(inputs_of(model, 2), [Segment(adapter, 2)]).shape == (2, CLASSES)
    assert set(asked) == {"config.json", "preprocessor_config.json", weights.SINGLE}

    def offline(repo: str, name: str) -> str:
        raise LocalEntryNotFoundError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ModelError, match="the Hugging Face hub is out of reach") as caught:
        describe(settings("someone/tiny-vit"), CLASSES)
    assert "\n" not in str(caught.value)


def test_the_bundled_model_loads() -> None:
    if files.find_file("demo", weights.SINGLE) is None:
        pytest.skip("the demo model is not in this checkout yet")
    model = load_model(settings("demo"), 10, 0)
    assert (model.spec.image_size, model.spec.channels, model.spec.patches) == (28, 1, 49)
    adapter = model.new_adapter(0)
    assert model(inputs_of(model, 2), [Segment(adapter, 2)]).isfinite().all()


def test_the_supported_families_are_named() -> None:
    assert set(SUPPORTED) == {*CONFIGS, "resnet"}


def _without(path: Path, start: str) -> Path:
    """Take the tensors whose names begin with `start` out of a checkpoint."""
    state = load_file(path / weights.SINGLE)
    kept = {key: value for key, value in state.items() if not key.startswith(start)}
    assert len(kept) < len(state)
    save_file(kept, path / weights.SINGLE, {"format": "pt"})
    return path


@pytest.mark.parametrize(("family", "neck"), [("bert", "bert.pooler"), ("modernbert", "head")])
def test_a_missing_neck_is_drawn_from_the_seed_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str, neck: str
) -> None:
    path = _without(write(tmp_path, family), f"{neck}.")
    one, again, other = (load_model(settings(path), CLASSES, seed) for seed in (1, 1, 2))
    assert f"has no {neck}: a new one is drawn" in caplog.text
    assert {name.rpartition(".")[0] for name in one.drawn} <= {f"{neck}.dense", f"{neck}.norm"}
    key = f"{neck}.dense.weight"
    values = [dict(model.module.named_parameters())[key] for model in (one, again, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    caplog.clear()
    assert not load_model(settings(path), CLASSES, 1, "device").drawn
    assert not caplog.text
    if family == "bert":
        with pytest.raises(ModelError, match=r"take bert\.pooler\.dense, which .* lacks"):
            load_model(settings(path, lora={"targets": ("dense",)}), CLASSES, 0)


def test_the_image_size_is_what_the_checkpoints_own_preprocessing_gives(tmp_path: Path) -> None:
    path = write(tmp_path, "dinov2")
    for prepared, size in (
        ({"do_center_crop": True, "crop_size": {"height": 24, "width": 24}}, 24),
        ({"crop_size": 12, "size": {"shortest_edge": 20}}, 12),
        ({"do_center_crop": False, "crop_size": 24, "size": {"height": 8, "width": 8}}, 8),
        ({"do_center_crop": False, "size": {"shortest_edge": 24}}, 24),
        ({"do_center_crop": True, "crop_size": 22}, 16),  # no multiple of the patch
        ({"do_resize": False, "size": {"height": 8, "width": 8}}, 16),
    ):
        (path / "preprocessor_config.json").write_text(json.dumps(prepared))
        spec = describe(settings(path), CLASSES)
        assert (spec.image_size, spec.patches) == (size, (size // 4) ** 2), prepared
        assert describe(settings(path, image_size=20), CLASSES).image_size == 20
    for no_square in ({"height": 24, "width": 20}, "large"):
        prepared = {"do_center_crop": True, "crop_size": no_square}
        (path / "preprocessor_config.json").write_text(json.dumps(prepared))
        with pytest.raises(ModelError, match=r"preprocessor_config.json of .* makes no square"):
            describe(settings(path), CLASSES)


def test_positions_that_padding_takes_are_no_room_for_a_text(tmp_path: Path) -> None:
    path = write(tmp_path, "roberta", pad_token_id=1)
    assert describe(settings(path, max_tokens=18), CLASSES).tokens == 18
    with pytest.raises(ModelError, match=r"19 is more than the 18 positions"):
        describe(settings(path, max_tokens=19), CLASSES)


def test_sizes_that_a_config_leaves_out_are_its_familys(tmp_path: Path) -> None:
    import importlib

    for kind, family in FAMILIES.items():
        if kind == "resnet":
            continue
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        spec = describe(settings(tmp_path), CLASSES)
        config = getattr(importlib.import_module(family.module), family.config)()
        tower = config if family.section is None else getattr(config, family.section)
        assert spec.depth == tower.num_hidden_layers, kind
        assert (spec.width, spec.heads) == (tower.hidden_size, tower.num_attention_heads), kind
        if family.modality == "text":
            assert spec.vocabulary == tower.vocab_size, kind
            assert spec.token_types == getattr(tower, "type_vocab_size", 0), kind
            assert spec.embedding_width == getattr(tower, "embedding_size", spec.width), kind
        else:
            assert (spec.image_size, spec.patch_size) == (tower.image_size, tower.patch_size), kind
