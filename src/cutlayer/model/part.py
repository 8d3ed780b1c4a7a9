"""A part of a checkpoint as a folder of its own: what a device downloads instead of the whole."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from cutlayer.files import write_atomically
from cutlayer.model.bank import AdapterBank
from cutlayer.model.cut import Part
from cutlayer.model.families import describe
from cutlayer.model.files import BESIDE, VOCABULARIES, find_file
from cutlayer.model.resnet import attach_norms
from cutlayer.model.weights import SINGLE, fill, skeleton, strip, without_ties

if TYPE_CHECKING:
    from cutlayer.settings.model import Model

_BESIDE = ("config.json", "preprocessor_config.json", *VOCABULARIES, *BESIDE)


def write_part(folder: Path, model: "Model", seed: int, part: Part) -> list[Path]:
    """Write the tensors of a part of `model`, and the files that a checkpoint has beside them.

    `load_model` of the folder, with weights "pretrained", gives the same part as of `model` itself,
    even if the weights of `model` are random. The same checkpoint gives the same bytes. Raises
    ModelError, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in _BESIDE:
        source = find_file(model.path, name)
        if source is not None:
            write_atomically(folder / name, source.read_bytes())
            written.append(folder / name)
    write_atomically(folder / SINGLE, save(_tensors(model, seed, part)))
    return [*written, folder / SINGLE]


def _tensors(model: "Model", seed: int, part: Part) -> dict[str, torch.Tensor]:
    spec = describe(model.model_copy(update={"frozen_bits": 32}))
    module = skeleton(spec, seed, torch.float32)
    attach_norms(module, AdapterBank())
    strip(module, spec, part)
    if spec.weights != "random":
        fill(module, spec, torch.float32, seed)
    tensors = {
        name: tensor.contiguous()
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }
    return without_ties(tensors, spec)
