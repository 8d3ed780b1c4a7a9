"""What the program of a light device takes and gives: the server writes it, the device runs it.

A program is two ONNX graphs: the blocks of the device's part with what comes before them, and its
ending, which selects tokens and encodes them. A device runs the blocks a few samples at a time and
the ending once for a batch, whose samples may share a scale. B samples, T tokens, N candidates
behind the prefix, K kept, D width, n rows (the tokens that are sent), G groups (rows, or 1).

The blocks take images, or ids and attention, and give

    activations float32 [B, T, D]
    scores      float32 [B, N]: what ranks tokens, where that is asked for

The ending takes these, and of texts attention. The inputs of both together:

    images      float32 [B, C, S, S], levels 0 ... 255, as large as the model reads them; of texts
    ids, attention      int64 [B, T]
    keep        int64 [1]: K, where tokens are selected
    means, prefix_analysis, other_analysis, step    of a basis (see `codecs.klt`), float32

Outputs, in this order, of which each program has some (scores come from its blocks):

    energy      float32 [1]: the sum of squares of the activations, finite where they are
    hidden      float32 [B, T, D]
    scores      float32 [B, N]: what ranks tokens
    kept        int64 [B, K], rising in each row
    mask        bool [B, T], False at padding, of texts
    codes       uint8 [n, D]; scale float32 [1]; low, high or rms float16 [G]: see `wire.quantize`
    prefix_symbols, other_symbols    int32 [n, L]: see `codecs.klt`
"""

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
"""Numbers in which the device's part computes: int8 quantises its matrices, by their inputs."""

OUTPUTS = (
    "energy", "hidden", "scores", "kept", "mask", "codes", "scale", "low", "high", "rms",
    "prefix_symbols", "other_symbols",
)  # fmt: skip

LARGEST_SYMBOL = 2**20
"""Symbols are cut off here in the program, far beyond what a codec sends."""


class Coding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of the activations. floats: nothing; levels: codes of a quantiser, with its
    settings as in `settings.Quantizer`; basis: symbols of a fitted codec."""

    kind: Literal["floats", "levels", "basis"]
    bits: Annotated[int, Meta(ge=1, le=32)] = 32
    levels: Literal["uniform", "gaussian"] = "uniform"
    per: Literal["token", "tensor"] = "token"
    rotate: bool = False


class Ports(NamedTuple):
    """The names of what a graph takes and gives, in their order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class ProgramKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which program: what it does besides running the first `cut` blocks.

    scored: it gives scores. selects: it keeps the best tokens; merges: the others become one.
    In what follows, text: a model of texts; prefix: tokens that always stay.
    """

    cut: Annotated[int, Meta(ge=0, le=4096)]
    coding: Coding
    scored: bool = False
    selects: bool = False
    merges: bool = False

    @property
    def ranks(self) -> bool:
        """Whether its blocks give scores."""
        return self.scored or self.selects

    def blocks_ports(self, text: bool) -> Ports:
        """What its blocks take and give."""
        scores = ("scores",) if self.ranks else ()
        return Ports(("ids", "attention") if text else ("images",), ("activations", *scores))

    def ending_ports(self, text: bool, prefix: int) -> Ports:
        """What its ending takes and gives."""
        scores = ("scores",) if self.selects else ()
        attention = ("attention",) if text else ()
        outputs = tuple(name for name in self.outputs(text, prefix) if name != "scores")
        return Ports(("activations", *scores, *attention, *self._settings(prefix)), outputs)

    def outputs(self, text: bool, prefix: int) -> tuple[str, ...]:
        """The names of what it gives."""
        found = {"energy"}
        if self.scored:
            found.add("scores")
        if self.selects:
            found.add("kept")
        if text:
            found.add("mask")
        if self.coding.kind == "floats":
            found.add("hidden")
        elif self.coding.kind == "levels":
            ranges = {"low", "high"} if self.coding.levels == "uniform" else {"rms"}
            found |= {"codes", "scale", *ranges}
        else:
            found |= {"other_symbols", *(["prefix_symbols"] if prefix else [])}
        return tuple(name for name in OUTPUTS if name in found)

    def inputs(self, text: bool, prefix: int) -> tuple[str, ...]:
        """The names of what it takes."""
        return (*self.blocks_ports(text).inputs, *self._settings(prefix))

    def _settings(self, prefix: int) -> tuple[str, ...]:
        """What it takes besides samples."""
        found = ["keep"] if self.selects else []
        if self.coding.kind == "basis":
            found += ["means", *(["prefix_analysis"] if prefix else []), "other_analysis", "step"]
        return tuple(found)
