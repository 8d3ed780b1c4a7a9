"""The parts a method is made of, as typed settings: what the files beside this one fill in."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Bits = Annotated[int, Field(ge=1, le=32)]


class Section(BaseModel):
    """A frozen part of a job; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Tokens(Section):
    """Which tokens cross the cut.

    keep: tokens kept per sample, besides CLS and registers; None keeps all.
    rest: what becomes of the others: one attention-weighted token, or nothing.
    score: attention of the CLS query, or the mean attention a token receives from all queries
    (for models without CLS).
    """

    keep: Annotated[int, Field(ge=1)] | None = None
    rest: Literal["merge", "drop"] = "merge"
    score: Literal["cls", "received"] = "cls"


class Quantizer(Section):
    """How a tensor becomes bits.

    bits: 1-8 quantise; 16 (bfloat16) and 32 (float32) pass through.
    levels: equal steps over the range, or Lloyd-Max levels of a Gaussian scaled by the RMS.
    per: one range (or RMS) for each token or for the whole tensor.
    rounding: to the nearest level, or stochastic and unbiased (uniform levels only).
    rotate: a seeded random-sign Hadamard rotation of the width first, undone after decoding.
    entropy: zstandard over the packed bytes where it makes the frame smaller.
    """

    bits: Bits = 32
    levels: Literal["uniform", "gaussian"] = "uniform"
    per: Literal["token", "tensor"] = "token"
    rounding: Literal["nearest", "stochastic"] = "nearest"
    rotate: bool = False
    entropy: Literal["zstd", "none"] = "zstd"

    @field_validator("bits")
    @classmethod
    def _known_bits(cls, bits: int) -> int:
        if bits > 8 and bits not in (16, 32):
            raise ValueError(f"{bits} bits cannot be packed: take 1 to 8, 16 or 32")
        return bits

    @model_validator(mode="after")
    def _unbiased_levels(self) -> Self:
        if self.rounding == "stochastic" and self.levels == "gaussian":
            raise ValueError(
                "rounding 'stochastic' is unbiased only between uniform levels, not 'gaussian': "
                "set levels to 'uniform' or rounding to 'nearest'"
            )
        return self


class Method(Section):
    """A way of training: what runs where, what crosses the cut, and how adapters are combined.

    split: True when the blocks after the cut run on the server; False when a device runs all.
    order: devices side by side, or one after another handing the adapters on.
    server_adapter: each device trains its own server adapter, averaged at the round's end, or
    all train one (split methods only).
    aggregate: sample-weighted average of the devices' adapters, or none (each keeps its own).
    pooled: one party holds all the data (the centralized reference).
    """

    name: str
    split: bool = True
    order: Literal["parallel", "sequential"] = "parallel"
    server_adapter: Literal["averaged", "shared"] = "averaged"
    aggregate: Literal["fedavg", "none"] = "fedavg"
    pooled: bool = False
    tokens: Tokens = Tokens()
    uplink: Quantizer = Quantizer()
    downlink: Quantizer = Quantizer()
    adapter_bits: Literal[16, 32] = 32
