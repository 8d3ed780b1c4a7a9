"""What the program of a light device takes and gives: the server writes it, the device runs it.

A program is one ONNX graph: the device's part of the model with what comes before and after it. B
samples, T tokens, N candidates behind the prefix, K kept, D width, n rows (the tokens that are
sent), G groups (rows, or 1). Inputs:

    images      float32 [B, C, S, S], levels 0 ... 255, as large as the model reads them; of texts
    ids, attention      int64 [B, T]
    keep        int64 [1]: K, where tokens are selected
    means, prefix_analysis, other_analysis, step    of a basis (see `codecs.klt`), float32

Outputs, in this order, of which each program has some:

    energy      float32 [1]: the sum of squares of the activations, finite where they are
    hidden      float32 [B, T, D]
    scores      float32 [B, N]: what ranks tokens
    kept        int64 [B, K], rising in each row
    mask        bool [B, T], False at padding, of texts
    codes       uint8 [n, D]; scale float32 [1]; low, high or rms float16 [G]: see `wire.quantize`
    prefix_symbols, other_symbols    int32 [n, L]: see `codecs.klt`
"""

from typing import Annotated, Literal

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


class Coding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What becomes of the activations. floats: nothing; levels: codes of a quantiser, with its
    settings as in `settings.Quantizer`; basis: symbols of a fitted codec."""

    kind: Literal["floats", "levels", "basis"]
    bits: Annotated[int, Meta(ge=1, le=32)] = 32
    levels: Literal["uniform", "gaussian"] = "uniform"
    per: Literal["token", "tensor"] = "token"
    rotate: bool = False


class ProgramKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which program: what it does besides running the first `cut` blocks.

    scored: it gives scores. selects: it keeps the best tokens; merges: the others become one.
    """

    cut: Annotated[int, Meta(ge=0, le=4096)]
    coding: Coding
    scored: bool = False
    selects: bool = False
    merges: bool = False

    def outputs(self, text: bool, prefix: int) -> tuple[str, ...]:
        """The names of what it gives. text: a model of texts; prefix: tokens that always stay."""
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
        found = ["ids", "attention"] if text else ["images"]
        if self.selects:
            found.append("keep")
        if self.coding.kind == "basis":
            found += ["means", *(["prefix_analysis"] if prefix else []), "other_analysis", "step"]
        return tuple(found)
