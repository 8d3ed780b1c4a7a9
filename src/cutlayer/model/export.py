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
from cutlayer.files import open_plain, read_bounded, write_atomically
from cutlayer.model.cut import CutModel
from cutlayer.model.files import BESIDE, MAX_CONFIG_BYTES, VOCABULARIES, find_file, read_json
from cutlayer.model.framing import checkpoint_fit, fit_for, preprocessor_at
from cutlayer.model.lora import Adapter
from cutlayer.model.spec import ModelSpec
from cutlayer.model.weights import SINGLE, skeleton

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
LABELS = "labels.json"
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
    _check(adapter, model, "adapter")
    held = {key: value.detach().cpu().contiguous() for key, value in adapter.items()}
    files = _peft(held, model) if model.train == "lora" else _checkpoint(held, model.spec, classes)
    if classes is not None and model.train == "lora":
        files[LABELS] = _json(_labels(classes))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return folder


def load_adapter(folder: str | Path, model: CutModel) -> Adapter:
    """The adapter that `save_adapter` or PEFT wrote, on the model's torch device.

    Raises ModelError when the files are missing or corrupt, or belong to another model.
    """
    full = model.train == "full"
    unused = _unused(model.spec)
    file = Path(folder) / (SINGLE if full else WEIGHTS)
    if not file.is_file():
        raise ModelError(f"adapter: there is no {file}: give a folder that holds an adapter")
    try:
        beside = file.parent / ("config.json" if full else CONFIG)
        config = json.loads(read_bounded(beside, MAX_CONFIG_BYTES))
        if not isinstance(config, dict):
            raise ValueError(f"{beside.name} holds no JSON object")
        open_plain(file).close()  # a pipe would hang, and a device never end
        with safe_open(file, framework="pt", device="cpu") as tensors:
            adapter = {
                key.removeprefix(PREFIX): tensors.get_tensor(key).to(model.compute, model.dtype)
                for key in tensors.keys()  # noqa: SIM118 (an open file, not a dictionary)
                if not key.endswith(IDLE) and not key.startswith(unused)
            }
        drawn = {} if full else {key: adapter.pop(key) for key in model.drawn if key in adapter}
    except (SafetensorError, OSError, ValueError, RecursionError, RuntimeError) as error:
        raise ModelError(f"adapter: {folder} cannot be read ({error}): restore its files") from None
    _check(adapter, model, str(folder))
    model.take_drawn(drawn)
    lora = model.spec.lora
    if not full and config.get("lora_alpha") != lora.alpha:
        raise ModelError(
            f"model.lora.alpha: {lora.alpha} but {folder} was trained with "
            f"{config.get('lora_alpha')}: take the same"
        )
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
    """What PEFT calls the model's task; None for images, which it has no name for."""
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
    """How the names begin of tensors that classification never computes with."""
    return tuple(f"{spec.parts.base}.{path}." for path in spec.parts.unused)


def _preparation(spec: ModelSpec) -> dict[str, bytes]:
    """The base's own files that a model's inputs are prepared by, as far as it has them."""
    names = ["preprocessor_config.json"]
    if spec.modality == "text":
        names = [*VOCABULARIES, *BESIDE]
    found = {name: find_file(spec.path, name) for name in names}
    files = {name: file.read_bytes() for name, file in found.items() if file is not None}
    fit, own = fit_for(spec), read_json(spec.path, "preprocessor_config.json")
    if fit is not None and own is not None and fit != checkpoint_fit(spec.path):
        files["preprocessor_config.json"] = _json(preprocessor_at(own, fit))
    return files


def _check(adapter: Adapter, model: CutModel, what: str) -> None:
    """Raise ModelError unless `adapter` has the tensors and shapes of the model's adapters."""
    shapes = model.shapes()
    for key in [*shapes, *adapter]:
        if key not in adapter or key not in shapes:
            verb = "lacks" if key in shapes else "has an unknown tensor,"
            raise ModelError(
                f"adapter: {what} {verb} {key}: it must come from the same model, "
                "model.lora.targets and side"
            )
        if tuple(adapter[key].shape) != shapes[key]:
            raise ModelError(
                f"adapter: {key} of {what} has shape {list(adapter[key].shape)}, not "
                f"{list(shapes[key])}: it must come from the same model, rank and classes"
            )


def _saved_modules(model: CutModel) -> list[str]:
    """The names that PEFT finds all modules by that an adapter brings whole."""
    neck = model.spec.parts.neck
    return [*model.spec.parts.head.trained, *([neck] if model.drawn and neck else [])]


def _target_modules(model: CutModel) -> list[str]:
    """The job's own name endings if all that they take carries LoRA, else the full names."""
    if model.spec.lora.side == "both":
        return list(model.spec.targets)
    ending = ".lora_A.weight"
    return [key.removesuffix(ending) for key in model.shapes() if key.endswith(ending)]
