"""The parts a method is made of, as typed settings: what the files beside this one fill in."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cutlayer.settings.section import Section

Bits = Annotated[int, Field(ge=1, le=32)]
SCORES = ("cls", "received")
LEVELS = ("uniform", "gaussian")
SOLVERS = ("equal", "asfl", "st-sflora", "exact", "sflam", "asfv", "auto", "genfv")


class Tokens(Section):
    """Which tokens cross the cut.

    keep: tokens kept per sample, besides CLS and registers; None keeps all.
    rest: what becomes of the others: one attention-weighted token, or nothing.
    score: attention of the CLS query, or the mean attention a token receives from all queries
    (for models without CLS), or `package.module:FUNCTION` for one's own (see model/attention.py).
    """

    keep: Annotated[int, Field(ge=1)] | None = None
    rest: Literal["merge", "drop"] = "merge"
    score: str = "cls"

    @field_validator("score")
    @classmethod
    def _known_score(cls, score: str) -> str:
        if score not in SCORES and ":" not in score:
            raise ValueError(
                f"no score is called {score!r}: take one of {', '.join(SCORES)}, or "
                "package.module:FUNCTION for your own"
            )
        return score


class Quantizer(Section):
    """How a tensor becomes bits.

    bits: 1-8 quantise; 16 (bfloat16) and 32 (float32) pass through.
    levels: equal steps over the range; Lloyd-Max levels of a Gaussian, scaled by the RMS; or
    `package.module:FUNCTION` for one's own, scaled likewise (see wire/custom_levels.py).
    per: one range (or RMS) for each token or for the whole tensor.
    rounding: to the nearest level, or stochastic and unbiased (uniform levels only).
    rotate: a seeded random-sign Hadamard rotation of the width first, undone after decoding.
    entropy: zstandard over the packed bytes where it makes the frame smaller.
    """

    bits: Bits = 32
    levels: str = "uniform"
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

    @field_validator("levels")
    @classmethod
    def _known_levels(cls, levels: str) -> str:
        if levels not in LEVELS and ":" not in levels:
            raise ValueError(
                f"no levels are called {levels!r}: take one of {', '.join(LEVELS)}, or "
                "package.module:FUNCTION for your own"
            )
        return levels

    @model_validator(mode="after")
    def _unbiased_levels(self) -> Self:
        if self.rounding == "stochastic" and self.levels != "uniform":
            raise ValueError(
                "rounding 'stochastic' is unbiased only between uniform levels, not "
                f"{self.levels!r}: set levels to 'uniform' or rounding to 'nearest'"
            )
        return self


class Allocation(Section):
    """Who takes part in a round, with which cut, tokens, bits, bandwidth and power.

    solver: equal (the method's own cut, tokens and bits; bandwidth in equal parts at full power),
    one of the papers' or ours, or `package.module:FUNCTION` for one's own (see planning/decide.py).
    cuts: to choose from (asfl, asfv, auto); empty: spread over the model's depth.
    rates_bps: ASFL's thresholds R_1 <= R_2 ..., one for each of `cuts`, latest cut first.
    tokens_min: K_min (st-sflora, exact). tokens: numbers to choose from, None for all (auto);
    empty: all that were calibrated. bits: to choose from (sflam, auto).
    latency_weight: lambda in [0, 1] (sflam). error_budget: bound on the relative squared
    quantisation error, mean over devices (sflam).
    quality_min: share of predictions that must survive the cut (auto), measured by
    `cutlayer calibrate`. time_weight, energy_weight, bytes_weight: what auto minimises, per
    second, joule and byte.
    emd_max: the largest EMD between a device's labels and all (genfv); 2 takes any.
    """

    solver: str = "equal"
    cuts: tuple[Annotated[int, Field(ge=0)], ...] = ()
    rates_bps: tuple[Annotated[float, Field(ge=0)], ...] = (0.0, 10e6, 20e6, 40e6)
    tokens_min: Annotated[int, Field(ge=1)] = 1
    tokens: tuple[Annotated[int, Field(ge=1)] | None, ...] = ()
    bits: tuple[Bits, ...] = (2, 4, 8, 16, 32)
    latency_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    error_budget: Annotated[float, Field(gt=0)] = 0.1
    quality_min: Annotated[float, Field(gt=0, le=1)] = 0.9
    time_weight: Annotated[float, Field(ge=0)] = 1.0
    energy_weight: Annotated[float, Field(ge=0)] = 0.0
    bytes_weight: Annotated[float, Field(ge=0)] = 0.0
    emd_max: Annotated[float, Field(ge=0, le=2)] = 2.0

    @field_validator("solver")
    @classmethod
    def _known_solver(cls, solver: str) -> str:
        if solver not in SOLVERS and ":" not in solver:
            raise ValueError(
                f"no solver is called {solver!r}: take one of {', '.join(SOLVERS)}, or "
                "package.module:FUNCTION for your own"
            )
        return solver

    @field_validator("bits")
    @classmethod
    def _rising_bits(cls, bits: tuple[int, ...]) -> tuple[int, ...]:
        if not bits or any(b > 8 and b not in (16, 32) for b in bits):
            raise ValueError(f"{list(bits)} cannot be chosen from: take 1 to 8, 16 and 32")
        return tuple(sorted(set(bits)))


class Method(Section):
    """A way of training: what runs where, what crosses the cut, and how adapters are combined.

    train: LoRA adapters and the head, or every weight of the model.
    split: True when the blocks after the cut run on the server; False when a device runs all.
    cut: blocks on the device where the method fixes them; None: the job's model.cut.
    device: what is before the cut is trained, or frozen (one way: no gradient returns).
    order: devices side by side, or one after another handing the adapters on.
    server_adapter: each device trains its own server adapter, averaged at the round's end; or
    all train one, by the mean of a step's gradients (shared) or moved by one device's batch
    after another's (in-turn).
    aggregate: sample-weighted average of the devices' adapters, or none (each keeps its own).
    pooled: one party holds all the data (the centralized reference).
    augmented: the server trains on generated data too, as the job's `augment` section says; None:
    if there is one and adapters are averaged.
    """

    name: str
    train: Literal["lora", "full"] = "lora"
    split: bool = True
    cut: Annotated[int, Field(ge=0)] | None = None
    device: Literal["trained", "frozen"] = "trained"
    order: Literal["parallel", "sequential"] = "parallel"
    server_adapter: Literal["averaged", "shared", "in-turn"] = "averaged"
    aggregate: Literal["fedavg", "none"] = "fedavg"
    pooled: bool = False
    augmented: bool | None = None
    tokens: Tokens = Tokens()
    uplink: Quantizer = Quantizer()
    downlink: Quantizer = Quantizer()
    adapter_bits: Literal[16, 32] = 32
    allocation: Allocation = Allocation()

    @property
    def code_on_devices(self) -> dict[str, str]:
        """What a device would run of one's own code: the function by the setting that names it."""
        named = {
            "method.tokens.score": self.tokens.score,
            "method.uplink.levels": self.uplink.levels,
        }
        return {setting: value for setting, value in named.items() if ":" in value}
