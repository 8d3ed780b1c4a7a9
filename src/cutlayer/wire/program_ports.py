"""The inputs and outputs of a light device's program, which the server writes and the device runs.

A program is two ONNX graphs: the blocks of the device's part with what comes before them, and its
ending, which selects and encodes tokens. A device runs the blocks a few samples at a time and
the ending once for a batch, whose samples may share a scale. B samples, T tokens, N candidates
behind the prefix, K kept, D width, n rows (the tokens that are sent), G groups (rows, or 1).

The blocks take images, or ids and attention, and give

    activations float32 [B, T, D]
    scores      float32 [B, N]: they rank the tokens; only if the program needs them

The ending takes these, and attention for texts. The inputs of both together:

    images      float32 [B, C, S, S], levels 0 ... 255, in the size that the model reads; or
    ids, attention      int64 [B, T], for texts
    keep        int64 [1]: K, where tokens are selected
    means, prefix_analysis, other_analysis, step    of a basis (see `codecs.klt`), float32

Outputs, in this order; each program has some of them (its blocks give the scores):

    energy      float32 [1]: the sum of squares of the activations, finite where they are
    hidden      float32 [B, T, D]
    scores      float32 [B, N]: what ranks tokens
    kept        int64 [B, K], rising in each row
    mask        bool [B, T], False at padding, for texts
    codes       uint8 [n, D]; scale float32 [1]; low, high or rms float16 [G]: see `wire.quantize`
    prefix_symbols, other_symbols    int32 [n, L]: see `codecs.klt`
"""

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

OUTPUTS = (
    "energy", "hidden", "scores", "kept", "mask", "codes", "scale", "low", "high", "rms",
    "prefix_symbols", "other_symbols",
)  # fmt: skip

LARGEST_SYMBOL = 2**20
"""The program clips symbols to this magnitude, far above what a codec may send."""


class Coding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What becomes of the activations. floats: nothing; levels: codes of a quantiser, with its
    settings as in `settings.Quantizer`; basis: symbols of a fitted codec."""

    kind: Literal["floats", "levels", "basis"]
    bits: Annotated[int, Meta(ge=1, le=32)] = 32
    levels: Literal["uniform", "gaussian"] = "uniform"
    per: Literal["token", "tensor"] = "token"
    rotate: bool = False


class Ports(NamedTuple):
    """The names of a graph's inputs and outputs, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class ProgramKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which program: what it does besides running the first `cut` blocks.

    scored: it gives scores. selects: it keeps the best tokens; merges: the others become one.
    In the methods, text: the model reads texts; prefix: number of tokens that are always kept.
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
        """The inputs and outputs of its blocks."""
        scores = ("scores",) if self.ranks else ()
        return Ports(("ids", "attention") if text else ("images",), ("activations", *scores))

    def ending_ports(self, text: bool, prefix: int) -> Ports:
        """The inputs and outputs of its ending."""
        scores = ("scores",) if self.selects else ()
        attention = ("attention",) if text else ()
        outputs = tuple(name for name in self.outputs(text, prefix) if name != "scores")
        return Ports(("activations", *scores, *attention, *self._settings(prefix)), outputs)

    def outputs(self, text: bool, prefix: int) -> tuple[str, ...]:
        """The names of its outputs."""
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
        """The names of its inputs."""
        return (*self.blocks_ports(text).inputs, *self._settings(prefix))

    def _settings(self, prefix: int) -> tuple[str, ...]:
        """The names of its inputs besides samples."""
        found = ["keep"] if self.selects else []
        if self.coding.kind == "basis":
            found += ["means", *(["prefix_analysis"] if prefix else []), "other_analysis", "step"]
        return tuple(found)
