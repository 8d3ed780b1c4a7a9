"""What was trained, on disk: adapters in PEFT's format, whole models in Hugging Face's.

Both are read and written without importing peft.
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
from cutlayer.files import write_atomically
from cutlayer.model.adapter_fit import check_classes, check_settings, check_shapes
from cutlayer.model.class_names import LABELS, class_names
from cutlayer.model.cut import CutModel
from cutlayer.model.families import ModelSpec
from cutlayer.model.files import find_file
from cutlayer.model.lora import HEAD, Adapter
from cutlayer.model.weights import SINGLE, current_names, skeleton

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
# What a checkpoint holds besides what trains and computes: written as zeros, not read.
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
    held = {key: value.detach().cpu().contiguous() for key, value in adapter.items()}
    files = _peft(held, model) if model.train == "lora" else _checkpoint(held, model.spec, classes)
    if classes is not None and model.train == "lora":
        files[LABELS] = _json(_labels(classes))
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

    classes: names that must be the adapter's, in order, where it has names. field: what errors call
    the folder's setting. Raises ModelError when the files are missing or corrupt, or belong to
    another model.
    """
    full, folder = model.train == "full", Path(folder)
    file = folder / (SINGLE if full else WEIGHTS)
    if not file.is_file():
        kind = "a whole model" if full else "an adapter"
        raise ModelError(f"{field}: there is no {file}: give a folder that holds {kind}")
    try:
        config = json.loads((folder / ("config.json" if full else CONFIG)).read_text("utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"its configuration is a {type(config).__name__}")
        if not full:
            check_settings(config, model, field, folder)
        with safe_open(file, framework="pt", device="cpu") as tensors:
            keys = [key for key in tensors.keys() if not key.endswith(IDLE)]  # noqa: SIM118
            names = current_names([key.removeprefix(PREFIX) for key in keys], model)
            shapes = [tuple(tensors.get_slice(key).get_shape()) for key in keys]
            held = dict(zip(names, shapes, strict=True))
            check_shapes(held, model, field, folder, config.get("target_modules"))
            if classes is not None:
                known = class_names(folder)
                check_classes(classes if known is None else known, classes, field, folder)
            adapter = {
                name: tensors.get_tensor(key).to(model.compute, model.dtype)
                for name, key in zip(names, keys, strict=True)
            }
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{field}: {folder} cannot be read ({error}): restore its files") from None
    for key, tensor in adapter.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{field}: {key} of {folder} is not finite: give a sound adapter")
    return adapter


def _peft(adapter: Adapter, model: CutModel) -> dict[str, bytes]:
    """The files of a LoRA adapter, by name."""
    spec = model.spec
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if spec.modality == "text" else None,
        "base_model_name_or_path": spec.path,
        "inference_mode": True,
        "r": spec.lora.rank,
        "lora_alpha": spec.lora.alpha,
        "lora_dropout": spec.lora.dropout,
        "target_modules": _target_modules(model),
        "modules_to_save": [HEAD],
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    tensors = {PREFIX + key: value for key, value in adapter.items()}
    return {
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
        CONFIG: _json(config),
    }


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
    empty = skeleton(replace(spec, weights="pretrained"), 0)
    tensors = {
        key: torch.zeros(value.shape, dtype=value.dtype)
        for key, value in empty.state_dict().items()
        if key.endswith(IDLE)
    }
    tensors |= adapter
    config: Any = empty.config
    config.architectures = [spec.parts.architecture]
    config.dtype = str(next(iter(adapter.values())).dtype).removeprefix("torch.")
    if classes is not None:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: index for index, name in enumerate(classes)}
    if spec.modality == "image":
        config.image_size = spec.image_size
    return {
        SINGLE: save(tensors, metadata={"format": "pt"}),
        "config.json": config.to_json_string().encode(),
        **_preparation(spec),
    }


def _preparation(spec: ModelSpec) -> dict[str, bytes]:
    """The base's own files that a model's inputs are prepared by, as far as it has them."""
    names = ["preprocessor_config.json"]
    if spec.modality == "text":
        whole = find_file(spec.path, "tokenizer.json")
        names = ["tokenizer.json" if whole else "vocab.txt", "tokenizer_config.json"]
    found = {name: find_file(spec.path, name) for name in names}
    return {name: file.read_bytes() for name, file in found.items() if file is not None}


def _target_modules(model: CutModel) -> list[str]:
    """The job's own name endings if all that they take carries LoRA, else the full names."""
    if model.spec.lora.side == "both":
        return list(model.spec.targets)
    ending = ".lora_A.weight"
    return [key.removesuffix(ending) for key in model.shapes() if key.endswith(ending)]
