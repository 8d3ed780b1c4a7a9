"""Adapters on disk in PEFT's format, written and read without importing peft."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cutlayer.errors import ModelError
from cutlayer.files import write_atomically
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import HEAD, Adapter

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."


def save_adapter(adapter: Adapter, model: CutModel, folder: str | Path) -> Path:
    """Write `adapter` so that `peft.PeftModel.from_pretrained(base, folder)` loads it.

    The base is Hugging Face's classification model of the same checkpoint and classes. Each file
    is whole or not there at all. Returns the folder.
    Raises ModelError when the adapter is not one of this model, OSError when it cannot be written.
    """
    _check(adapter, model, "adapter")
    tensors = {PREFIX + key: value.detach().cpu().contiguous() for key, value in adapter.items()}
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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    return folder


def load_adapter(folder: str | Path, model: CutModel) -> Adapter:
    """The adapter that `save_adapter` or PEFT wrote, on the model's torch device.

    Raises ModelError when the files are missing or corrupt, or belong to another model.
    """
    file = Path(folder) / WEIGHTS
    if not file.is_file():
        raise ModelError(f"adapter: there is no {file}: give a folder that holds an adapter")
    try:
        config = json.loads((file.parent / CONFIG).read_text(encoding="utf-8"))
        with safe_open(file, framework="pt", device="cpu") as tensors:
            adapter = {
                key.removeprefix(PREFIX): tensors.get_tensor(key).to(model.compute, model.dtype)
                for key in tensors.keys()  # noqa: SIM118 (an open file, not a dictionary)
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"adapter: {folder} cannot be read ({error}): restore its files") from None
    _check(adapter, model, str(folder))
    lora = model.spec.lora
    if config.get("lora_alpha") != lora.alpha:
        raise ModelError(
            f"model.lora.alpha: {lora.alpha} but {folder} was trained with "
            f"{config.get('lora_alpha')}: take the same"
        )
    return adapter


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


def _target_modules(model: CutModel) -> list[str]:
    """The job's own name endings if all that they take carries LoRA, else the full names."""
    return list(model.spec.targets if model.spec.lora.side == "both" else model.layers)
