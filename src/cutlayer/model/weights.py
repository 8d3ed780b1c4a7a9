"""Loads the frozen backbone: only the tensors of the wanted part are read from the checkpoint.

The module is Hugging Face's own, built on the meta device (no memory). Layers of other parts are
taken out, and the tensors of the rest are read one by one from the safetensors file(s).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cutlayer.errors import ModelError
from cutlayer.harmless import harmless
from cutlayer.model import wide_attention
from cutlayer.model.bank import AdapterBank
from cutlayer.model.cut import Body, CutModel, Head, Part, Weights
from cutlayer.model.families import describe
from cutlayer.model.files import find_file, read_json
from cutlayer.model.full import FullWeights, whole_shapes
from cutlayer.model.lora import BankHead, LoraWeights, find_targets
from cutlayer.model.low_bits import LowBitLinear
from cutlayer.model.own_head import OwnHead
from cutlayer.model.positions import fit_positions
from cutlayer.model.resnet import ResNet, attach_norms
from cutlayer.model.spec import ModelSpec, Train, check_train
from cutlayer.model.transformer import Transformer
from cutlayer.seeds import derive, torch_rng

if TYPE_CHECKING:
    from cutlayer.settings.model import Model

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# From these, transformers makes a name for each label, however many labels they say.
_LABELS = ("num_labels", "id2label", "label2id")
_FACTORIES = {
    torch.tensor,
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.randn,
    torch.rand,
}
_LOG = logging.getLogger(__name__)


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

    part: "device" holds the embedding and the first `model.cut` blocks, and the tail if the job has
    one; "server" the rest; only their own tensors are read. seed: draws the backbone when weights
    are "random". train: LoRA on a frozen backbone, or every weight.
    Raises ModelError for whatever is wrong with the checkpoint or the settings.
    """
    spec = describe(model, num_classes)
    check_train(spec, train)
    module = skeleton(spec, seed, dtype)
    bank = AdapterBank()
    attach_norms(module, bank)
    # LoRA's layers are found in the whole model, before the other part is taken out.
    layers = find_targets(module, spec) if train == "lora" else {}
    shapes = whole_shapes(module, spec)
    strip(module, spec, part)
    drawn: tuple[str, ...] = ()
    if spec.weights == "random":
        cast(module, dtype)
        for name in low_bit_layers(module, spec):
            _lower(module, name, spec)
    else:
        drawn = fill(module, spec, dtype, seed)
        _check_drawn(spec, drawn, layers)
    embeddings: Any = module.get_submodule(f"{spec.parts.base}.{spec.parts.embeddings[0]}")
    if not isinstance(embeddings, Absent):
        fit_positions(embeddings, spec)
    weights: Weights
    if train == "lora":
        weights = LoraWeights(module, spec, layers, bank)
    else:
        weights = FullWeights(module, spec, shapes, bank, holds_head=spec.has_head(part))
    body: Body = (ResNet if spec.residual else Transformer)(module, spec)
    head: Head = OwnHead(module, spec) if spec.parts.head.own else BankHead(bank, spec)
    return CutModel(module, body, head, weights, spec, part, dtype, drawn)


def skeleton(spec: ModelSpec, seed: int, dtype: torch.dtype) -> nn.Module:
    """Hugging Face's classification or language model for `spec`, in evaluation mode.

    Pretrained: on the meta device, to be filled with values of `dtype`. Random: in float32,
    initialised by transformers' own rules from `seed`, the same on every call.
    """
    family = spec.parts
    package = importlib.import_module(family.module)
    build: Any = getattr(package, family.architecture)
    try:
        config = _config(package.__dict__[family.config], spec)
        if build._supports_sdpa:
            config._attn_implementation = wide_attention.register()
        if spec.weights == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(seed, "backbone"))
                model: nn.Module = build(config)
        else:
            with torch.device("meta"), _Floats(dtype):
                model = build(config)
    except Exception as error:  # what transformers raises for a wrong value has no common base
        why = harmless(" ".join(str(error).split()))
        raise ModelError(
            f"model.path: config.json of {spec.path} makes no {spec.family} model ({why}): "
            "restore the file"
        ) from None
    return model.eval().requires_grad_(False)


def _config(kind: Any, spec: ModelSpec) -> Any:
    """transformers' config object of config.json, with the job's number of classes."""
    values = read_json(spec.path, "config.json") or {}
    config = kind.from_dict({key: one for key, one in values.items() if key not in _LABELS})
    config.num_labels = spec.num_classes
    if spec.patch_size:
        section = spec.parts.section
        tower = config if section is None else getattr(config, section)
        # A single number, as the interpolation of positions needs it.
        tower.patch_size = spec.patch_size
        if not isinstance(tower.image_size, int):
            tower.image_size = tower.image_size[0]
    return config


class _Floats(TorchFunctionMode):
    """Makes new floating-point tensors of `dtype` where none is named, in this thread alone.

    torch's own default is that of the whole process: a server that makes programs of float16 would
    change what its other threads compute meanwhile.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, and turn what a factory made without a dtype of its own."""
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func in _FACTORIES and kwargs.get("dtype") is None and made.is_floating_point():
            return made.to(self.dtype)
        return made


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Turn parameters and other saved tensors into `dtype`; computed tables stay unchanged."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            _place(model, name, value.to(dtype))


def strip(model: nn.Module, spec: ModelSpec, part: Part) -> None:
    """Take the layers out of `model` that `part` does not run, and a head that adapters bring.

    device: runs embeddings and the first `spec.cut` blocks; server: the other blocks, the final
    norm and the head. With a tail, the device runs the tail's blocks, the final norm and the head.
    """
    family, held, ends = spec.parts, spec.blocks_of(part), spec.has_head(part)
    absent = [spec.block_name(index) for index in range(spec.depth) if index not in held]
    below = list(family.unused)
    if not ends:
        below += [] if family.norm is None else [family.norm]
        below += ["pooler"] if family.pool == "map" else []
        absent += [] if family.neck is None else [family.neck]
    if part == "server":
        below += family.embeddings
    below += () if held else family.shared
    below += () if 0 in held else family.after_first
    absent += [f"{family.base}.{path}" for path in below]
    absent += family.head.trained if ends else family.head.modules
    for name in absent:
        path, _, leaf = name.rpartition(".")
        parent = model.get_submodule(path)
        if getattr(parent, leaf, None) is not None:
            setattr(parent, leaf, Absent(name))
    embeddings: Any = model.get_submodule(f"{family.base}.{family.embeddings[0]}")
    if getattr(embeddings, "mask_token", None) is not None:
        embeddings.mask_token = None  # only masked pretraining uses it


def fill(model: nn.Module, spec: ModelSpec, dtype: torch.dtype, seed: int) -> tuple[str, ...]:
    """Give every tensor left in `model` its pretrained value, in `dtype`, on the CPU.

    Layers between pooling and head that the checkpoint lacks are drawn from (seed, their names),
    and the log says so; their names are returned.
    Raises ModelError for a file that is missing, pickled or corrupt, and for tensors that are
    missing or of another shape than config.json says.
    """
    wanted = {k: t for k, t in model.state_dict().items() if t.is_floating_point()}
    head, table = _tied(spec)
    lowered = low_bit_layers(model, spec)
    placed = {table: [name for name in (table, head) if name in wanted]}
    if head in wanted:
        wanted[table] = wanted.pop(head)
    for name, value in _read(model, spec, wanted):
        if value.shape != wanted[name].shape:
            raise ModelError(
                f"model.path: tensor {name} of {spec.path} has shape {list(value.shape)}, but "
                f"config.json asks for {list(wanted[name].shape)}: take files that belong together"
            )
        kept = nn.Parameter(value.to(dtype, copy=True), requires_grad=False)
        for place in placed.get(name, [name]):
            _place(model, place, kept)
            if place.removesuffix(".weight") in lowered and place.endswith(".weight"):
                # One by one, so that the whole part is never in memory in float32.
                _lower(model, place.removesuffix(".weight"), spec)
    missing = {name: t for name, t in model.state_dict().items() if t.is_meta}
    neck = spec.parts.neck
    drawn = {n: t for n, t in missing.items() if neck is not None and n.startswith(f"{neck}.")}
    lacking = [name for name in missing if name not in drawn]
    if lacking:
        raise ModelError(
            f"model.path: {spec.path} lacks {len(lacking)} tensors, the first {lacking[0]}: "
            "give a complete checkpoint, or take model.weights random"
        )
    for name, value in drawn.items():
        _place(model, name, _draw(name, value, seed).to(dtype))
    if drawn:
        _LOG.warning(
            "model.path: %s has no %s: a new one is drawn, and saved with the adapter",
            spec.path,
            neck,
        )
    _compute_buffers(model)
    return tuple(drawn)


def low_bit_layers(model: nn.Module, spec: ModelSpec) -> frozenset[str]:
    """The linear layers of the part's blocks whose weights are to be stored in few bits."""
    if spec.frozen_bits == 32:
        return frozenset()
    held = {name for name, _ in model.named_modules()}
    paths = (f"{spec.block_name(i)}.{one.path}" for i in range(spec.depth) for one in spec.linears)
    return frozenset(path for path in paths if path in held)


def _lower(model: nn.Module, name: str, spec: ModelSpec) -> None:
    """Replace a linear layer by one that stores its weight in few bits."""
    path, _, leaf = name.rpartition(".")
    parent, bits = model.get_submodule(path), spec.frozen_bits
    assert bits in (4, 8)
    low = LowBitLinear(getattr(parent, leaf), bits, spec.parts.transposed)  # type: ignore[arg-type]
    setattr(parent, leaf, low)


def _tied(spec: ModelSpec) -> tuple[str, str]:
    """The names of the head's weight and of the embedding's, if they are one table.

    A checkpoint holds such a table once. Empty names if there are two tables.
    """
    if not spec.tied:
        return "", ""
    family = spec.parts
    return f"{family.head.outputs[0]}.weight", f"{family.base}.{family.embeddings[0]}.weight"


def without_ties(tensors: dict[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The tensors of a model as a checkpoint holds them: a table that two layers share is there
    once.
    """
    head, table = _tied(spec)
    return {name: t for name, t in tensors.items() if name != head or table not in tensors}


def _check_drawn(spec: ModelSpec, drawn: Sequence[str], layers: Collection[str]) -> None:
    """Raise ModelError if LoRA is wanted on a layer with drawn weights, which PEFT saves whole."""
    if drawn and spec.parts.neck_linear in layers:
        raise ModelError(
            f"model.lora.targets: they take {spec.parts.neck_linear}, which {spec.path} lacks and "
            "which is drawn anew: name layers of the blocks alone"
        )


def _draw(name: str, like: Tensor, seed: int) -> Tensor:
    """A new tensor: a matrix is normal(0, 0.02), a norm's weight is one, a bias is zero."""
    if like.dim() > 1:
        return torch.empty(like.shape).normal_(std=0.02, generator=torch_rng(seed, name))
    return torch.full(like.shape, float(name.endswith(".weight")))


def _compute_buffers(model: Any) -> None:
    """Give tables that no checkpoint holds (such as rotary frequencies) the model's own values.

    transformers computes them together with a module's parameters, which are marked as done here
    so that they stay unchanged.
    """
    for module in model.modules():
        empty = {
            name: buffer
            for name, buffer in module.named_buffers(recurse=False)
            if buffer is not None and buffer.is_meta
        }
        if not empty:
            continue
        for name, buffer in empty.items():
            module._buffers[name] = torch.empty_like(buffer, device="cpu")
        done = list(module.parameters())
        for parameter in done:
            parameter._is_hf_initialized = True
        model._init_weights(module)
        for parameter in done:
            del parameter._is_hf_initialized


def _place(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    parent = model.get_submodule(path)
    if leaf in dict(parent.named_parameters(recurse=False)):
        if not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=False)
    elif isinstance(value, nn.Parameter):
        value = value.data  # a buffer
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
        # Some patterns also take names of today, which need no translation.
        plan = [
            (key, key, None)
            if key in wanted
            else (key, *rename_source_key(key, renamings, converters, spec.parts.base, wanted))
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
    """The present names of adapter tensors; older names are translated as in `_read`."""
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
