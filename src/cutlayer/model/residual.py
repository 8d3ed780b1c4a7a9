"""The shape of a residual network at every point where it can be cut, from its config alone.

He et al. 2015, arXiv 1512.03385, as Hugging Face's `resnet` builds it: a stem that shrinks the
image fourfold, then stages of basic or bottleneck blocks. A map of C channels and S x S positions
crosses the cut as S * S tokens of width C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from cutlayer.model.files import MOST_BLOCKS, MOST_PIXELS, MOST_SIZE

STEM_KERNEL, STEM_STRIDE, POOL_STRIDE = 7, 2, 2
REDUCTION = 4
IMAGE_SIZE = 32


class Map(NamedTuple):
    """A square map of features."""

    channels: int
    side: int

    @property
    def tokens(self) -> int:
        """Positions of the map: each crosses the cut as one token."""
        return self.side**2

    @property
    def numbers(self) -> int:
        """Values in the map: positions times channels."""
        return self.channels * self.tokens

    def through(self, conv: Conv) -> Map:
        """The map that a convolution, padded by half its kernel, makes of this one."""
        return Map(conv.outputs, -(-self.side // conv.stride))


class Conv(NamedTuple):
    """A convolution without bias, followed by its batch normalisation."""

    inputs: int
    outputs: int
    kernel: int
    stride: int


class Block(NamedTuple):
    """A residual block: convolutions in sequence, and a shortcut convolution beside them if any.

    name: its path below the stages.
    """

    name: str
    convs: tuple[Conv, ...]
    shortcut: Conv | None


@dataclass(frozen=True)
class Residual:
    """A residual network for images of one size."""

    image: Map
    stem: Conv
    blocks: tuple[Block, ...]

    @property
    def stem_map(self) -> Map:
        """The largest map: that of the stem before its pooling."""
        return self.image.through(self.stem)

    @property
    def maps(self) -> tuple[Map, ...]:
        """What crosses each cut: after the stem, and after each block."""
        stem = self.stem_map
        pooled = Map(stem.channels, -(-stem.side // POOL_STRIDE))
        return tuple(accumulate((block.convs for block in self.blocks), _through, initial=pooled))

    def index(self, path: str) -> int:
        """The block that holds `path`, given below the stages."""
        name = ".".join(path.split(".")[:3])
        return next(i for i, block in enumerate(self.blocks) if block.name == name)


def layout(config: dict[str, Any], image_size: int | None) -> Residual:
    """The network of a `resnet` config.json; image_size None: the config's own, or else 32.

    Raises ValueError or TypeError for a config that makes no network.
    """
    widths = [int(width) for width in config.get("hidden_sizes", (256, 512, 1024, 2048))]
    depths = [int(depth) for depth in config.get("depths", (3, 4, 6, 3))]
    kind = config.get("layer_type", "bottleneck")
    if kind not in ("basic", "bottleneck"):
        raise ValueError(f"layer_type {kind!r} is neither basic nor bottleneck")
    if len(widths) != len(depths) or min(depths, default=0) < 1:
        raise ValueError(f"depths {depths} do not belong to hidden_sizes {widths}")
    if sum(depths) > MOST_BLOCKS or not 1 <= min(widths) <= max(widths) <= MOST_SIZE:
        raise ValueError("depths or hidden_sizes are larger than any model's, or 0")
    side = image_size or int(config.get("image_size", IMAGE_SIZE))
    if not 1 <= side <= MOST_PIXELS:
        raise ValueError(f"image_size is not within 1 and {MOST_PIXELS} pixels")
    stem = Conv(
        int(config.get("num_channels", 3)),
        int(config.get("embedding_size", 64)),
        STEM_KERNEL,
        STEM_STRIDE,
    )
    blocks = tuple(_blocks(config, stem.outputs, widths, depths))
    return Residual(Map(stem.inputs, side), stem, blocks)


def _blocks(
    config: dict[str, Any], inputs: int, widths: list[int], depths: list[int]
) -> Iterator[Block]:
    for stage, (outputs, depth) in enumerate(zip(widths, depths, strict=True)):
        halves = stage > 0 or bool(config.get("downsample_in_first_stage", False))
        for layer in range(depth):
            stride = 2 if halves and layer == 0 else 1
            beside = inputs != outputs or stride > 1
            yield Block(
                name=f"{stage}.layers.{layer}",
                convs=_convs(config, inputs, outputs, stride),
                shortcut=Conv(inputs, outputs, 1, stride) if beside else None,
            )
            inputs = outputs


def _convs(config: dict[str, Any], inputs: int, outputs: int, stride: int) -> tuple[Conv, ...]:
    if config.get("layer_type", "bottleneck") == "basic":
        return Conv(inputs, outputs, 3, stride), Conv(outputs, outputs, 3, 1)
    narrow = outputs // REDUCTION
    early = bool(config.get("downsample_in_bottleneck", False))
    return (
        Conv(inputs, narrow, 1, stride if early else 1),
        Conv(narrow, narrow, 3, 1 if early else stride),
        Conv(narrow, outputs, 1, 1),
    )


def _through(start: Map, convs: tuple[Conv, ...]) -> Map:
    for conv in convs:
        start = start.through(conv)
    return start
