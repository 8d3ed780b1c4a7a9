"""The frozen backbone's tensors: only those of the wanted part are read from the checkpoint.

The module is Hugging Face's own, built on the meta device (no memory); a part that is not wanted
stays out, and the tensors of the rest are read one by one from the safetensors file(s).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model.cut import Body, CutModel, Part, Weights
from cutlayer.model.families import ModelSpec, Train, check_train, describe
from cutlayer.model.files import find_file, read_json
from cutlayer.model.full import FullWeights, whole_shapes
from cutlayer.model.lora import HEAD, AdapterBank, LoraWeights, find_targets
from cutlayer.model.resnet import ResNet, attach_norms
from cutlayer.model.transformer import Transformer
from cutlayer.seeds import derive

if TYPE_CHECKING:
    from cutlayer.settings.model import Model

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Absent(nn.Module):
    """Takes the place of a block or embedding that this part of the model does not hold."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, *_args: Any, **_kwargs: Any) -> Tensor:
        """Raises ModelError: there is nothing to compute with."""
        raise ModelError(f"model: {self.name} is not in this part: load the part that runs it")


def load_model(
    model: Model,
    num_classes: int,
    seed: int,
    part: Part = "whole",
    dtype: torch.dtype = torch.float32,
    train: Train = "lora",
) -> CutModel:
    """The model a job names, or the part of it that one side of the cut runs, on the CPU.

    part: "device" holds the embedding and the first `model.cut` blocks, "server" the rest; only
    their own tensors are read. seed: draws the backbone when weights are "random". train: LoRA on
    a frozen backbone, or every weight.
    Raises ModelError for whatever is wrong with the checkpoint or the settings.
    """
    spec = describe(model, num_classes)
    check_train(spec, train)
    module = skeleton(spec, seed)
    bank = AdapterBank()
    attach_norms(module, bank)
    # What trains is known by the whole model, before the other part goes.
    layers = find_targets(module, spec.targets) if train == "lora" else {}
    shapes = whole_shapes(module, spec)
    strip(module, spec, part)
    if spec.weights == "random":
        module.to(dtype)
    else:
        fill(module, spec, dtype)
    fit_positions(module, spec)
    weights: Weights
    if train == "lora":
        weights = LoraWeights(module, spec, layers, bank)
    else:
        weights = FullWeights(module, spec, shapes, bank, holds_head=part != "device")
    body: Body = (ResNet if spec.residual else Transformer)(module, spec)
    return CutModel(module, body, weights, spec, part, dtype)


def skeleton(spec: ModelSpec, seed: int) -> nn.Module:
    """Hugging Face's classification model for `spec`, in float32 and evaluation mode.

    Pretrained: on the meta device, to be filled. Random: initialised by transformers' own rules
    from `seed`, the same on every call.
    """
    family = spec.parts
    package = importlib.import_module(family.module)
    config = package.__dict__[family.config].from_dict(read_json(spec.path, "config.json") or {})
    config.num_labels = spec.num_classes
    if spec.residual is None:
        config._attn_implementation = "sdpa"
    if spec.patch_size:
        # One number a side, which interpolation of positions needs.
        config.patch_size = spec.patch_size
        if not isinstance(config.image_size, int):
            config.image_size = config.image_size[0]
    build: Any = getattr(package, family.architecture)
    try:
        if spec.weights == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(seed, "backbone"))
                model: nn.Module = build(config)
        else:
            with torch.device("meta"):
                model = build(config)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"model.path: config.json of {spec.path} makes no {spec.family} model ({error}): "
            "restore the file"
        ) from None
    return model.eval().requires_grad_(False)


def strip(model: nn.Module, spec: ModelSpec, part: Part) -> None:
    """Take out of `model` what `part` does not run; the head goes too, since adapters bring it.

    device: embeddings and the first `spec.cut` blocks; server: the other blocks, the final norm
    and the pooler.
    """
    family = spec.parts
    base: Any = model.get_submodule(family.base)
    out = {"whole": (0, 0), "device": (spec.cut, spec.depth), "server": (0, spec.cut)}[part]
    absent = [spec.block_name(index) for index in range(*out)]
    if part == "device":
        tail = [name for name in ("pooler", family.norm) if getattr(base, name or "", None)]
        absent += [f"{family.base}.{name}" for name in tail]
    embeddings = getattr(base, family.embeddings)
    if part == "server":
        absent.append(f"{family.base}.{family.embeddings}")
    elif getattr(embeddings, "mask_token", None) is not None:
        embeddings.mask_token = None  # only masked pretraining uses it
    for name in [*absent, HEAD]:
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, Absent(name))


def fill(model: nn.Module, spec: ModelSpec, dtype: torch.dtype) -> None:
    """Give every tensor left in `model` its pretrained value, in `dtype`, on the CPU.

    Raises ModelError for a file that is missing, pickled or corrupt, and for tensors that are
    missing or of another shape than config.json says.
    """
    wanted = {k: t for k, t in model.state_dict().items() if t.is_floating_point()}
    for name, value in _read(model, spec, wanted):
        if value.shape != wanted[name].shape:
            raise ModelError(
                f"model.path: tensor {name} of {spec.path} has shape {list(value.shape)}, but "
                f"config.json asks for {list(wanted[name].shape)}: take files that belong together"
            )
        _place(model, name, value.to(dtype, copy=True))
    missing = [name for name, value in model.state_dict().items() if value.is_meta]
    if missing:
        raise ModelError(
            f"model.path: {spec.path} lacks {len(missing)} tensors, the first {missing[0]}: "
            "give a complete checkpoint, or take model.weights random"
        )
    embeddings = _embeddings(model, spec)
    if spec.modality == "text" and not isinstance(embeddings, Absent):
        # Buffers that no checkpoint holds.
        embeddings.position_ids = torch.arange(spec.positions)[None]
        embeddings.token_type_ids = torch.zeros(1, spec.positions, dtype=torch.long)


def fit_positions(model: nn.Module, spec: ModelSpec) -> None:
    """Interpolate the position embeddings to `spec.image_size` once, by the model's own function.

    The result is what Hugging Face computes anew for every batch at that size.
    """
    embeddings = _embeddings(model, spec)
    if not spec.patch_size or isinstance(embeddings, Absent):
        return
    old: Tensor = embeddings.position_embeddings
    # The function reads the count of tokens from a tensor's shape; registers join later.
    shape = (1, spec.parts.prefix + spec.patches, spec.width)
    new = embeddings.interpolate_pos_encoding(old.new_empty(shape), *(spec.image_size,) * 2)
    embeddings.position_embeddings = nn.Parameter(new.detach().clone(), requires_grad=False)


def _embeddings(model: nn.Module, spec: ModelSpec) -> Any:
    return model.get_submodule(f"{spec.parts.base}.{spec.parts.embeddings}")


def _place(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    parent = model.get_submodule(path)
    if leaf in dict(parent.named_parameters(recurse=False)):
        value = nn.Parameter(value, requires_grad=False)
    setattr(parent, leaf, value)


def _read(
    model: nn.Module, spec: ModelSpec, wanted: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint's tensors that `wanted` names, under today's names, opened one by one.

    Older names are translated by transformers' own table, as its `from_pretrained` does.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    table = get_model_conversion_mapping(model)
    converters = [step for step in table if isinstance(step, WeightConverter)]
    renamings = [step for step in table if not isinstance(step, WeightConverter)]
    by_pattern = {pattern: step for step in converters for pattern in step.source_patterns}
    for name, keys in _files(spec).items():
        # (key in the file, name in the model, pattern of the converter if values change too)
        plan = [
            (key, *rename_source_key(key, renamings, converters, spec.parts.base, wanted))
            for key in keys
        ]
        plan = [step for step in plan if step[1] in wanted]
        if not plan:
            continue  # a shard of the other part: not even opened
        with _opened(_needed(spec, name)) as tensors:
            for key, target, pattern in plan:
                value = tensors.get_tensor(key)
                if pattern is None:
                    yield target, value
                    continue
                converter = by_pattern[pattern]
                converter.add_tensor(target, key, pattern, value)
                yield from converter.convert(target, model=model).items()


def current_names(keys: Sequence[str], model: CutModel) -> list[str]:
    """The names that adapter tensors have today; older ones are translated as in `_read`."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    shapes: dict[str, Any] = dict(model.shapes())
    if all(key in shapes for key in keys):
        return list(keys)
    table = get_model_conversion_mapping(model.module)
    renamings = [step for step in table if not isinstance(step, WeightConverter)]
    base = model.spec.parts.base
    return [rename_source_key(key, renamings, [], base, shapes)[0] for key in keys]


def _files(spec: ModelSpec) -> dict[str, list[str]]:
    """The names of the tensors in each safetensors file of the checkpoint."""
    single = find_file(spec.path, SINGLE)
    if single is not None:
        with _opened(single) as tensors:
            return {SINGLE: list(tensors.keys())}
    index = read_json(spec.path, INDEX)
    if index is None:
        pickled = find_file(spec.path, "pytorch_model.bin")
        held = "only pickled weights, which can run code when opened" if pickled else "no weights"
        raise ModelError(
            f"model.path: {spec.path} holds {held}: give a checkpoint with {SINGLE}, "
            "or take model.weights random"
        )
    shards: dict[str, list[str]] = {}
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"model.path: {INDEX} of {spec.path} has no weight_map: restore the file")
    for key, file in weight_map.items():
        shards.setdefault(str(file), []).append(key)
    return shards


def _needed(spec: ModelSpec, name: str) -> Path:
    # A shard is a file of the checkpoint's folder, never a path out of it.
    file = find_file(spec.path, name) if Path(name).name == name else None
    if file is None:
        raise ModelError(f"model.path: {spec.path} lacks its file {name}: restore the file")
    return file


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """An open safetensors file; a fault within the block becomes one ModelError."""
    try:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"model.path: {file} is not a whole safetensors file ({error}): restore the file"
        ) from None
