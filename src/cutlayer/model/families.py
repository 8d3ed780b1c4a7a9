"""What is known of one checkpoint before it is loaded: its sizes, and what can be trained of it.

Only config.json and preprocessor_config.json are read here: neither torch nor transformers is
imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cutlayer.errors import ModelError
from cutlayer.model import residual
from cutlayer.model.files import read_json
from cutlayer.model.framing import checkpoint_fit
from cutlayer.model.names import FAMILIES, Family, Modality
from cutlayer.model.residual import Map, Residual

if TYPE_CHECKING:
    from cutlayer.settings.model import Lora, Model

__all__ = ["FAMILIES", "SUPPORTED", "Family", "ModelSpec", "Train", "check_train", "describe"]

Train = Literal["lora", "full"]

SUPPORTED = tuple(FAMILIES)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One checkpoint as a job uses it: sizes in tokens, features and pixels.

    family: the config's `model_type`. prefix: CLS, distillation and register tokens.
    patches: N, tokens besides the prefix at the chosen image size (text: at max_tokens).
    gated_mlp: the MLP is SwiGLU (three linear layers of mlp_width). head_inputs: what the
    trained head reads. vocabulary, positions, token_types, max_tokens: of texts; image_size,
    patch_size and channels: of images; 0 for what a model lacks. aspect: the job's model.aspect.
    residual: the network of a ResNet, None for transformers. Its tokens and width differ from cut
    to cut: patches and width are those at `cut`, also after `dataclasses.replace`.
    """

    family: str
    path: str
    weights: str
    modality: Modality
    depth: int
    num_classes: int
    head_inputs: int
    cut: int
    lora: Lora
    width: int = 0
    heads: int = 0
    mlp_width: int = 0
    gated_mlp: bool = False
    qkv_bias: bool = False
    prefix: int = 0
    patches: int = 0
    image_size: int = 0
    aspect: str = "checkpoint"
    patch_size: int = 0
    channels: int = 0
    vocabulary: int = 0
    positions: int = 0
    token_types: int = 0
    max_tokens: int = 0
    residual: Residual | None = None

    def __post_init__(self) -> None:
        if self.residual is not None:
            at = self.map_at(self.cut)
            object.__setattr__(self, "width", at.channels)
            object.__setattr__(self, "patches", at.tokens)

    @property
    def tokens(self) -> int:
        """T: all tokens of a sample, the prefix included."""
        return self.prefix + self.patches

    def tokens_at(self, cut: int) -> int:
        """Tokens of a sample that reach `cut`, the prefix included."""
        return self.tokens if self.residual is None else self.map_at(cut).tokens

    def width_at(self, cut: int) -> int:
        """Numbers in each token that reaches `cut`."""
        return self.width if self.residual is None else self.map_at(cut).channels

    def map_at(self, cut: int) -> Map:
        """The map of a ResNet that reaches `cut`."""
        assert self.residual is not None
        return self.residual.maps[cut]

    @property
    def parts(self) -> Family:
        """The names of the family's parts."""
        return FAMILIES[self.family]

    @property
    def targets(self) -> tuple[str, ...]:
        """The endings of the names of the linear layers that carry LoRA."""
        return self.parts.targets if self.lora.targets == "auto" else self.lora.targets

    def block_name(self, index: int) -> str:
        """The Hugging Face module name of block `index`."""
        name = index if self.residual is None else self.residual.blocks[index].name
        return f"{self.parts.base}.{self.parts.blocks}.{name}"

    def position(self, name: str) -> int:
        """The block that the module, parameter or adapter key `name` is in.

        -1 for the embedding, the depth for all that comes after the blocks.
        """
        base = self.parts.base
        if name.startswith(f"{base}.{self.parts.embeddings}."):
            return -1
        path = f"{base}.{self.parts.blocks}."
        if not name.startswith(path):
            return self.depth
        below = name[len(path) :]
        return int(below.split(".")[0]) if self.residual is None else self.residual.index(below)

    def carries_lora(self, name: str) -> bool:
        """Whether the job puts LoRA on the linear layer `name`, by its targets and side."""
        side = self.lora.side
        on_side = side == "both" or (self.position(name) < self.cut) == (side == "device")
        return on_side and match_targets(name, self.targets)


def match_targets(name: str, targets: str | Sequence[str]) -> bool:
    """Whether PEFT's rule takes the module `name`.

    targets: a string is a regular expression for the full name; names in a sequence match as
    the full name or its ending after a dot.
    """
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def describe(model: Model, num_classes: int = 0) -> ModelSpec:
    """What `model` names, from the checkpoint's configuration alone.

    num_classes: 0 while the data is not known.
    Raises ModelError for a checkpoint that is not there, a family that cannot be cut, or
    settings that the checkpoint does not allow.
    """
    config = read_json(model.path, "config.json")
    if config is None:
        raise ModelError(
            f"model.path: {model.path} has no config.json: give a Hugging Face checkpoint folder"
        )
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ModelError(
            f"model.path: {model.path} is of type {kind!r}: supported are {', '.join(FAMILIES)}"
        )
    read = _resnet if kind == "resnet" else _transformer
    try:
        return read(kind, config, model, num_classes)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"model.path: config.json of {model.path} makes no {kind} model ({error}): "
            "restore the file"
        ) from None


def check_train(spec: ModelSpec, train: Train) -> None:
    """Raise ModelError when the model cannot be trained so: LoRA, or every weight."""
    if train == "lora" and spec.residual is not None:
        raise ModelError(
            f"method.train: 'lora' finds no linear layers in {spec.path}, which is a ResNet: "
            "set method.train to full"
        )
    if train == "full" and spec.lora.side != "both":
        raise ModelError(
            f"model.lora.side: {spec.lora.side!r} has no meaning where method.train is full: "
            "leave it at both (method.device frozen keeps the device's part as it is)"
        )


def _check_cut(model: Model, depth: int) -> None:
    if model.cut > depth:
        raise ModelError(
            f"model.cut: {model.cut} is beyond the {depth} blocks of {model.path}: "
            f"take 0 to {depth}"
        )


def _resnet(kind: str, config: dict[str, Any], model: Model, num_classes: int) -> ModelSpec:
    network = residual.layout(config, model.image_size or _read_size(model))
    depth = len(network.blocks)
    _check_cut(model, depth)
    return ModelSpec(
        family=kind,
        path=model.path,
        weights=model.weights,
        modality="image",
        depth=depth,
        num_classes=num_classes,
        head_inputs=network.maps[-1].channels,
        cut=model.cut,
        lora=model.lora,
        image_size=network.image.side,
        aspect=model.aspect,
        channels=network.image.channels,
        residual=network,
    )


def _transformer(kind: str, config: dict[str, Any], model: Model, num_classes: int) -> ModelSpec:
    family = FAMILIES[kind]
    depth = int(config.get("num_hidden_layers", 12))
    _check_cut(model, depth)
    width = int(config.get("hidden_size", 768))
    gated = bool(config.get("use_swiglu_ffn", False))
    mlp = int(width * config.get("mlp_ratio", 4)) if family.layer_scale else 0
    if gated:
        mlp = (int(mlp * 2 / 3) + 7) // 8 * 8
    prefix = family.prefix
    if kind == "dinov2_with_registers":
        prefix += int(config.get("num_register_tokens", 4))
    image = family.modality == "image"
    size = patch = 0
    if image:
        patch = _side(config.get("patch_size", family.patch_size), "patch_size")
        size = _image_size(config, model, patch)
    positions = 0 if image else int(config.get("max_position_embeddings", 512))
    if positions and model.max_tokens > positions:
        raise ModelError(
            f"model.max_tokens: {model.max_tokens} is more than the {positions} positions of "
            f"{model.path}: take up to {positions}"
        )
    return ModelSpec(
        family=kind,
        path=model.path,
        weights=model.weights,
        modality=family.modality,
        depth=depth,
        width=width,
        heads=int(config.get("num_attention_heads", 12)),
        mlp_width=mlp or int(config.get("intermediate_size", 3072)),
        gated_mlp=gated,
        qkv_bias=bool(config.get("qkv_bias", True)),
        prefix=prefix,
        patches=(size // patch) ** 2 if image else model.max_tokens - prefix,
        image_size=size,
        aspect=model.aspect,
        patch_size=patch,
        channels=int(config.get("num_channels", 3)) if image else 0,
        vocabulary=0 if image else int(config.get("vocab_size", 30522)),
        positions=positions,
        token_types=0 if image else int(config.get("type_vocab_size", 2)),
        max_tokens=0 if image else model.max_tokens,
        num_classes=num_classes,
        head_inputs=2 * width if family.pool == "cls+mean" else width,
        cut=model.cut,
        lora=model.lora,
    )


def _side(value: Any, field: str) -> int:
    """The side in pixels of a square that config.json gives as one number or two equal ones."""
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise ValueError(f"{field} {value} is not square")
    return int(sides.pop())


def _image_size(config: dict[str, Any], model: Model, patch: int) -> int:
    """The side in pixels of the images the job feeds."""
    if model.image_size is None:
        return _read_size(model) or _side(config.get("image_size", 224), "image_size")
    if model.image_size % patch:
        below = model.image_size // patch * patch
        choices = f"{below} or {below + patch}" if below else f"{patch}"
        raise ModelError(
            f"model.image_size: {model.image_size} is not a multiple of the patch, {patch} pixels: "
            f"take {choices}"
        )
    return model.image_size


def _read_size(model: Model) -> int | None:
    """The side that the checkpoint's preprocessor makes its images; config.json may name that of
    an earlier training (DINOv2: 518 pixels, read at 224).
    """
    fit = checkpoint_fit(model.path)
    return None if fit is None else fit.side
