"""Reads and writes what was trained: adapters in PEFT's format, whole models in Hugging Face's.

Both without importing peft.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cutlayer.errors import ModelError
from cutlayer.files import open_plain, read_bounded, write_atomically
from cutlayer.model.adapter_fit import check_classes, check_settings, check_shapes
from cutlayer.model.class_names import LABELS, class_names
from cutlayer.model.cut import CutModel
from cutlayer.model.files import BESIDE, MAX_CONFIG_BYTES, VOCABULARIES, find_file, read_json
from cutlayer.model.framing import checkpoint_fit, fit_for, preprocessor_at
from cutlayer.model.lora import Adapter
from cutlayer.model.spec import ModelSpec
from cutlayer.model.weights import SINGLE, current_names, skeleton

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
# Tensors of a checkpoint that neither train nor compute anything: written as zeros, not read.
IDLE = (".num_batches_tracked", ".mask_token")


def save_adapter(
    adapter: Adapter,
    model: CutModel,
    folder: str | Path,
    classes: Sequence[str] | None = None,
) -> Path:
    """Write `adapter` so that others load it. Each file is whole or not there at all.

    LoRA: `peft.PeftModel.from_pretrained(base, folder)`; the base is Hugging Face's classification
    model of the same checkpoint and classes. Full training: a checkpoint of the whole model for
    `AutoModelForImageClassification.from_pretrained(folder)` (of texts:
    `AutoModelForSequenceClassification`), which a job's model.path can also name. classes:
    the names of the labels, in order; beside an adapter they are in labels.json (id2label and
    label2id, as from_pretrained of the base takes them), of a whole model in its config. Returns
    the folder.
    Raises ModelError when the adapter is not one of this model, OSError when it cannot be written.
    """
    check_shapes({k: tuple(t.shape) for k, t in adapter.items()}, model, "adapter", "adapter")
    if model.train == "full":
        return save_whole(adapter, model.spec, folder, classes)
    files = _peft(_on_cpu(adapter), model)
    if classes is not None:
        files[LABELS] = _json(_labels(classes))
    return _written(files, folder)


def save_whole(
    tensors: Adapter, spec: ModelSpec, folder: str | Path, classes: Sequence[str] | None = None
) -> Path:
    """Write a whole model as a checkpoint, as `save_adapter` does after full training.

    tensors: by their Hugging Face names. Returns the folder. Raises OSError when it cannot be
    written.
    """
    return _written(_checkpoint(_on_cpu(tensors), spec, classes), folder)


def _on_cpu(tensors: Adapter) -> Adapter:
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def _written(files: dict[str, bytes], folder: str | Path) -> Path:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return folder


def load_adapter(
    folder: str | Path,
    model: CutModel,
    classes: Sequence[str] | None = None,
    field: str = "adapter",
) -> Adapter:
    """The adapter that `save_adapter` or PEFT wrote, on the model's torch device.

    classes: names of the classes in order, which must be the adapter's names if it has any. field:
    the setting that errors name. Raises ModelError when the files are missing or corrupt, or belong
    to another model.
    """
    full, folder = model.train == "full", Path(folder)
    unused = _unused(model.spec)
    file = folder / (SINGLE if full else WEIGHTS)
    if not file.is_file():
        kind = "a whole model" if full else "an adapter"
        raise ModelError(f"{field}: there is no {file}: give a folder that holds {kind}")
    try:
        beside = folder / ("config.json" if full else CONFIG)
        config = json.loads(read_bounded(beside, MAX_CONFIG_BYTES))
        if not isinstance(config, dict):
            raise ValueError(f"{beside.name} holds no JSON object")
        if not full:
            check_settings(config, model, field, folder)
        open_plain(file).close()  # reading a pipe would hang, and a device file never ends
        with safe_open(file, framework="pt", device="cpu") as tensors:
            keys = [
                key
                for key in tensors.keys()  # noqa: SIM118 (an open file, not a dictionary)
                if not key.endswith(IDLE) and not key.startswith(unused)
            ]
            names = current_names([key.removeprefix(PREFIX) for key in keys], model)
            shapes = [tuple(tensors.get_slice(key).get_shape()) for key in keys]
            # Tensors that the checkpoint lacks are checked when they are put into the model.
            apart = () if full else model.drawn
            held = {n: s for n, s in zip(names, shapes, strict=True) if n not in apart}
            check_shapes(held, model, field, folder, config.get("target_modules"))
            if classes is not None:
                known = class_names(folder)
                check_classes(classes if known is None else known, classes, field, folder)
            adapter = {
                name: tensors.get_tensor(key).to(model.compute, model.dtype)
                for name, key in zip(names, keys, strict=True)
            }
    except (SafetensorError, OSError, ValueError, RecursionError, RuntimeError) as error:
        raise ModelError(f"{field}: {folder} cannot be read ({error}): restore its files") from None
    for key, tensor in adapter.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{field}: {key} of {folder} is not finite: give a sound adapter")
    if not full:
        model.take_drawn({key: adapter.pop(key) for key in model.drawn if key in adapter})
    return adapter


def _peft(adapter: Adapter, model: CutModel) -> dict[str, bytes]:
    """The files of a LoRA adapter, by name."""
    spec = model.spec
    config = {
        "peft_type": "LORA",
        "task_type": _peft_task(spec),
        "base_model_name_or_path": spec.path,
        "inference_mode": True,
        "r": spec.lora.rank,
        "lora_alpha": spec.lora.alpha,
        "lora_dropout": spec.lora.dropout,
        "target_modules": _target_modules(model),
        "modules_to_save": _saved_modules(model),
        "bias": "none",
        "fan_in_fan_out": spec.parts.transposed,
        "init_lora_weights": True,
    }
    held = model.module.state_dict()
    drawn = {key: held[key].cpu().contiguous() for key in model.drawn}
    tensors = {PREFIX + key: value for key, value in (adapter | drawn).items()}
    return {
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
        CONFIG: _json(config),
    }


def _peft_task(spec: ModelSpec) -> str | None:
    """PEFT's name for the model's task; None for images, for which it has no name."""
    if spec.parts.language:
        return "CAUSAL_LM"
    return "SEQ_CLS" if spec.modality == "text" else None


def _labels(classes: Sequence[str]) -> dict[str, Any]:
    """The names of the classes as Hugging Face's configurations have them."""
    return {
        "id2label": {str(index): name for index, name in enumerate(classes)},
        "label2id": {name: index for index, name in enumerate(classes)},
    }


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _checkpoint(
    adapter: Adapter, spec: ModelSpec, classes: Sequence[str] | None
) -> dict[str, bytes]:
    """The files of a whole model, by name: weights, config, and what prepares its inputs."""
    dtype = next(iter(adapter.values())).dtype
    empty = skeleton(replace(spec, weights="pretrained"), 0, dtype)
    unused = _unused(spec)
    tensors = {
        key: torch.zeros(value.shape, dtype=value.dtype)
        for key, value in empty.state_dict().items()
        if key.endswith(IDLE) or key.startswith(unused)
    }
    tensors |= adapter
    config: Any = empty.config
    config.architectures = [spec.parts.architecture]
    config.dtype = str(dtype).removeprefix("torch.")
    if classes is not None:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: index for index, name in enumerate(classes)}
    if spec.modality == "image":
        section = spec.parts.section
        (config if section is None else getattr(config, section)).image_size = spec.image_size
    return {
        SINGLE: save(tensors, metadata={"format": "pt"}),
        "config.json": config.to_json_string().encode(),
        **_preparation(spec),
    }


def _unused(spec: ModelSpec) -> tuple[str, ...]:
    """Prefixes of the names of tensors that classification never uses."""
    return tuple(f"{spec.parts.base}.{path}." for path in spec.parts.unused)


def _preparation(spec: ModelSpec) -> dict[str, bytes]:
    """The base's files by which inputs are prepared (tokenizer, preprocessor), if it has them."""
    names = ["preprocessor_config.json"]
    if spec.modality == "text":
        names = [*VOCABULARIES, *BESIDE]
    found = {name: find_file(spec.path, name) for name in names}
    files = {name: file.read_bytes() for name, file in found.items() if file is not None}
    fit, own = fit_for(spec), read_json(spec.path, "preprocessor_config.json")
    if fit is not None and own is not None and fit != checkpoint_fit(spec.path):
        files["preprocessor_config.json"] = _json(preprocessor_at(own, fit))
    return files


def _saved_modules(model: CutModel) -> list[str]:
    """The names by which PEFT finds all modules that an adapter holds whole."""
    neck = model.spec.parts.neck
    return [*model.spec.parts.head.trained, *([neck] if model.drawn and neck else [])]


def _target_modules(model: CutModel) -> list[str]:
    """The job's name endings if every layer that they match carries LoRA, else the full names."""
    if model.spec.lora.side == "both":
        return list(model.spec.targets)
    ending = ".lora_A.weight"
    return [key.removesuffix(ending) for key in model.shapes() if key.endswith(ending)]
