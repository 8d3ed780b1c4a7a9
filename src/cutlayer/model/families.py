"""What is known of each family of pretrained transformers, and of one checkpoint before loading.

Only config.json is read here: neither torch nor transformers is imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cutlayer.errors import ModelError
from cutlayer.model.files import read_json

if TYPE_CHECKING:
    from cutlayer.job import Lora, Model

Modality = Literal["image", "text"]


@dataclass(frozen=True)
class Family:
    """How Hugging Face names the parts of one `model_type`.

    module, architecture, config: where transformers keeps the classification class.
    base: attribute of the classification model that holds embeddings and blocks; `blocks` and
    `norm` (None: blocks end in their own norm) are paths below it.
    query ... down: linear layers of a block, as paths below the block.
    prefix: tokens before the patches, registers not counted. pool: what the head reads.
    asks_to_interpolate: the embeddings take other image sizes only with an argument.
    """

    module: str
    architecture: str
    config: str
    modality: Modality
    base: str
    blocks: str
    norm: str | None
    pool: Literal["cls", "cls+mean", "pooler"]
    prefix: int = 1
    query: str = "attention.q_proj"
    key: str = "attention.k_proj"
    value: str = "attention.v_proj"
    output: str = "attention.o_proj"
    up: str = "mlp.fc1"
    down: str = "mlp.fc2"
    layer_scale: bool = False
    asks_to_interpolate: bool = False
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    patch_size: int = 16
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


FAMILIES: dict[str, Family] = {
    "vit": Family(
        module="transformers.models.vit.modeling_vit",
        architecture="ViTForImageClassification",
        config="ViTConfig",
        modality="image",
        base="vit",
        blocks="layers",
        norm="layernorm",
        pool="cls",
        asks_to_interpolate=True,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    "deit": Family(
        module="transformers.models.deit.modeling_deit",
        architecture="DeiTForImageClassification",
        config="DeiTConfig",
        modality="image",
        base="deit",
        blocks="layers",
        norm="layernorm",
        pool="cls",
        asks_to_interpolate=True,
        prefix=2,
    ),
    "dinov2": Family(
        module="transformers.models.dinov2.modeling_dinov2",
        architecture="Dinov2ForImageClassification",
        config="Dinov2Config",
        modality="image",
        base="dinov2",
        blocks="encoder.layer",
        norm="layernorm",
        pool="cls+mean",
        layer_scale=True,
        patch_size=14,
    ),
    "dinov2_with_registers": Family(
        module="transformers.models.dinov2_with_registers.modeling_dinov2_with_registers",
        architecture="Dinov2WithRegistersForImageClassification",
        config="Dinov2WithRegistersConfig",
        modality="image",
        base="dinov2_with_registers",
        blocks="encoder.layer",
        norm="layernorm",
        pool="cls+mean",
        layer_scale=True,
    ),
    "bert": Family(
        module="transformers.models.bert.modeling_bert",
        architecture="BertForSequenceClassification",
        config="BertConfig",
        modality="text",
        base="bert",
        blocks="encoder.layer",
        norm=None,
        pool="pooler",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        output="attention.output.dense",
        up="intermediate.dense",
        down="output.dense",
        targets=("query", "value"),
    ),
}

SUPPORTED = tuple(FAMILIES)


@dataclass(frozen=True)
class ModelSpec:
    """One checkpoint as a job uses it: sizes in tokens, features and pixels.

    family: the config's `model_type`. prefix: CLS, distillation and register tokens.
    patches: N, tokens besides the prefix at the chosen image size (text: at max_tokens).
    gated_mlp: the MLP is SwiGLU (three linear layers of mlp_width). head_inputs: what the
    trained head reads. vocabulary, positions, token_types: 0 for images; image_size, patch_size
    and channels: 0 for text.
    """

    family: str
    path: str
    weights: str
    modality: Modality
    depth: int
    width: int
    heads: int
    mlp_width: int
    gated_mlp: bool
    qkv_bias: bool
    prefix: int
    patches: int
    image_size: int
    patch_size: int
    channels: int
    vocabulary: int
    positions: int
    token_types: int
    max_tokens: int
    num_classes: int
    head_inputs: int
    cut: int
    lora: Lora

    @property
    def tokens(self) -> int:
        """T: all tokens of a sample, the prefix included."""
        return self.prefix + self.patches

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
        return f"{self.parts.base}.{self.parts.blocks}.{index}"

    def position(self, name: str) -> int:
        """The block that the module or adapter key `name` is in; the depth for all after them."""
        path = f"{self.parts.base}.{self.parts.blocks}."
        return int(name[len(path) :].split(".")[0]) if name.startswith(path) else self.depth

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
    """What `model` names, from the checkpoint's config.json alone.

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
    try:
        spec = _spec(kind, config, model, num_classes)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"model.path: config.json of {model.path} makes no {kind} model ({error}): "
            "restore the file"
        ) from None
    if model.cut > spec.depth:
        raise ModelError(
            f"model.cut: {model.cut} is beyond the {spec.depth} blocks of {model.path}: "
            f"take 0 to {spec.depth}"
        )
    return spec


def _spec(kind: str, config: dict[str, Any], model: Model, num_classes: int) -> ModelSpec:
    family = FAMILIES[kind]
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
        depth=int(config.get("num_hidden_layers", 12)),
        width=width,
        heads=int(config.get("num_attention_heads", 12)),
        mlp_width=mlp or int(config.get("intermediate_size", 3072)),
        gated_mlp=gated,
        qkv_bias=bool(config.get("qkv_bias", True)),
        prefix=prefix,
        patches=(size // patch) ** 2 if image else model.max_tokens - prefix,
        image_size=size,
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
    """The side of a square given as one number or two equal ones."""
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise ValueError(f"{field} {value} is not square")
    return int(sides.pop())


def _image_size(config: dict[str, Any], model: Model, patch: int) -> int:
    """The side in pixels of the images the job feeds."""
    if model.image_size is None:
        return _side(config.get("image_size", 224), "image_size")
    if model.image_size % patch:
        below = model.image_size // patch * patch
        choices = f"{below} or {below + patch}" if below else f"{patch}"
        raise ModelError(
            f"model.image_size: {model.image_size} is not a multiple of the patch, {patch} pixels: "
            f"take {choices}"
        )
    return model.image_size
