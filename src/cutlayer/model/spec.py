"""One checkpoint as a job uses it: its sizes, which layers train, and which part a name is in."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from cutlayer.errors import ModelError
from cutlayer.model.family import Activation, Family, Modality
from cutlayer.model.residual import Map, Residual

if TYPE_CHECKING:
    from cutlayer.settings.model import Lora

__all__ = ["Linear", "ModelSpec", "Part", "Relative", "Train", "check_train", "match_targets"]

Train = Literal["lora", "full"]
SHARE_A_SCALE = 64
"""How many weights in few bits share a float32 scale (see low_bits.py)."""

Part = Literal["whole", "device", "server"]
Role = Literal["query", "key", "value", "fused", "output", "up", "down"]


class Linear(NamedTuple):
    """A linear layer of a block: path below the block, sizes, whether it has a bias, its role."""

    path: str
    inputs: int
    outputs: int
    bias: bool
    role: Role

    @property
    def numbers(self) -> int:
        """How many numbers its weight and bias hold."""
        return (self.inputs + self.bias) * self.outputs


class Relative(NamedTuple):
    """DeBERTa's relative positions (arXiv 2006.03654).

    rows: of the table of relative positions. to_position: queries look up the positions of keys;
    to_content: keys look up the positions of queries. shared: the layers of queries and keys also
    project positions, which otherwise have layers of their own. norm: the table is normalised.
    conv: numbers in the convolution beside the first block, 0 without one; kernel: its width.
    """

    rows: int
    to_position: bool
    to_content: bool
    shared: bool
    norm: bool
    conv: int
    kernel: int


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One checkpoint as a job uses it: sizes in tokens, features and pixels.

    family: the config's `model_type`. parts: the names of the family's parts. prefix: CLS,
    distillation and register tokens. patches: N, tokens besides the prefix at the chosen image
    size (text: at max_tokens). linears: the linear layers of a block in the order they are
    computed; attention_width: of all heads' outputs together; key_width: of all keys, fewer where
    heads share them. tied: the head is the embedding's table. gated_mlp: the MLP multiplies two
    linear layers of mlp_width. activation_keeps: tensors that the activation function of an MLP
    keeps for its gradient. norm_bias: norms have a bias. head_inputs: what the first trained
    layer of the head reads, head_activation: what follows it if it is hidden; pooled by the mean
    where pool_mean. vocabulary, token_types, max_tokens: of texts; image_size, patch_size and
    channels: of images; 0 for what a model lacks. aspect: the job's model.aspect. position_rows: of
    the embedding's position table at the chosen size. embedding_width: of tables that are
    projected to the width. neck_bias: the layer between pooling and head has one.
    tail, frozen_bits: the job's model.tail and model.frozen_bits.
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
    parts: Family
    tail: int | None = None
    frozen_bits: int = 32
    width: int = 0
    heads: int = 0
    linears: tuple[Linear, ...] = ()
    attention_width: int = 0
    key_width: int = 0
    tied: bool = False
    mlp_width: int = 0
    gated_mlp: bool = False
    activation_keeps: int = 1
    norm_bias: bool = True
    head_activation: Activation = "tanh"
    pool_mean: bool = False
    neck_bias: bool = True
    prefix: int = 0
    patches: int = 0
    image_size: int = 0
    aspect: str = "checkpoint"
    patch_size: int = 0
    channels: int = 0
    vocabulary: int = 0
    embedding_width: int = 0
    position_rows: int = 0
    token_types: int = 0
    max_tokens: int = 0
    relative: Relative | None = None
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
        """The width of each token that reaches `cut`."""
        return self.width if self.residual is None else self.map_at(cut).channels

    def patches_a_side_at(self, cut: int) -> int:
        """Patches along each side of an image's square grid at `cut`; 0 for what has none."""
        if self.modality != "image":
            return 0
        patches = self.tokens_at(cut) - self.prefix
        side = math.isqrt(patches)
        return side if side > 1 and side * side == patches else 0

    def map_at(self, cut: int) -> Map:
        """The map of a ResNet that reaches `cut`."""
        assert self.residual is not None
        return self.residual.maps[cut]

    @property
    def end(self) -> int:
        """The first block of the tail, after the server's blocks; the depth without a tail."""
        return self.depth - (self.tail or 0)

    def blocks_of(self, part: Part) -> range | tuple[int, ...]:
        """The blocks that a part of the model, cut at `cut`, runs."""
        if part == "whole":
            return range(self.depth)
        if part == "server":
            return range(self.cut, self.end)
        return (*range(self.cut), *range(self.end, self.depth))

    def has_head(self, part: Part) -> bool:
        """Whether a part runs the final norm and the head."""
        return part == "whole" or (part == "device") == (self.tail is not None)

    @property
    def targets(self) -> tuple[str, ...]:
        """The endings of the names of the linear layers that carry LoRA."""
        return self.parts.targets if self.lora.targets == "auto" else self.lora.targets

    @property
    def head_layers(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the head's new linear layers, by name, in order of computation.

        None where the head is the checkpoint's own.
        """
        head = self.parts.head
        if head.own:
            return {}
        final = (self.head_inputs, self.num_classes)
        layers = {} if head.hidden is None else {head.hidden: (self.head_inputs,) * 2}
        return layers | dict.fromkeys(head.outputs, final)

    @property
    def why_all_tokens(self) -> str | None:
        """Why every token must cross the cut, or None where tokens can be left out."""
        if self.residual is not None:
            return "is a ResNet, which has no attention to rank the positions of a map by"
        if self.parts.places_in_blocks:
            return "needs the position of each token in its blocks, which no frame carries"
        return None

    def block_name(self, index: int) -> str:
        """The Hugging Face module name of block `index`."""
        name = index if self.residual is None else self.residual.blocks[index].name
        return f"{self.parts.base}.{self.parts.blocks}.{name}"

    def position(self, name: str) -> int:
        """The block that the module, parameter or adapter key `name` is in.

        -1 for the embedding, the depth for all that comes after the blocks.
        """
        family = self.parts
        if name.startswith(tuple(f"{family.base}.{path}." for path in family.embeddings)):
            return -1
        if name.startswith(tuple(f"{family.base}.{path}." for path in family.after_first)):
            return 0
        path = f"{family.base}.{family.blocks}."
        if not name.startswith(path):
            return self.depth
        below = name[len(path) :]
        return int(below.split(".")[0]) if self.residual is None else self.residual.index(below)

    def carries_lora(self, name: str) -> bool:
        """Whether the job puts LoRA on the linear layer `name`, by its targets and side."""
        side, at = self.lora.side, self.position(name)
        on_device = at < self.cut or (self.tail is not None and at >= self.end)
        on_side = side == "both" or on_device == (side == "device")
        return on_side and match_targets(name, self.targets)


def match_targets(name: str, targets: str | Sequence[str]) -> bool:
    """Whether PEFT's rule takes the module `name`.

    targets: a string is a regular expression for the full name; names in a sequence match as
    the full name or its ending after a dot.
    """
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def check_train(spec: ModelSpec, train: Train) -> None:
    """Raise ModelError when the model cannot be trained by `train`: LoRA, or every weight."""
    if train == "lora" and spec.residual is not None:
        raise ModelError(
            f"method.train: 'lora' finds no linear layers in {spec.path}, which is a ResNet: "
            "set method.train to full"
        )
    if train == "full" and spec.frozen_bits < 32:
        raise ModelError(
            f"model.frozen_bits: {spec.frozen_bits} is for weights that stay as they are, and "
            "method.train full trains every one: take 32, or train lora"
        )
    if train == "full" and spec.relative is not None:
        raise ModelError(
            f"method.train: 'full' cannot divide {spec.path}, whose blocks on both sides of the "
            "cut share one table of relative positions: set method.train to lora"
        )
    if train == "full" and spec.parts.language:
        raise ModelError(
            f"method.train: 'full' cannot train {spec.path}, a language model, whose table of "
            "tokens may be on both sides of the cut: set method.train to lora"
        )
    if train == "full" and spec.lora.side != "both":
        raise ModelError(
            f"model.lora.side: {spec.lora.side!r} has no meaning where method.train is full: "
            "leave it at both (method.device frozen keeps the device's part as it is)"
        )
