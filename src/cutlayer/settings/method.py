"""The method section of a job: the parts of a method, which the files in methods/ fill in."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from cutlayer.settings.allocation import RATES, Allocation
from cutlayer.settings.section import Bits, Section

SCORES = ("cls", "received")
LEVELS = ("uniform", "gaussian")


class Tokens(Section):
    """Which tokens cross the cut."""

    keep: Annotated[int, Field(ge=1)] | None = None
    """Tokens of a sample that cross the cut, besides CLS and registers; null: all."""

    rest: Literal["merge", "drop"] = "merge"
    """The tokens that are not kept: merged into one, weighted by their scores, or dropped."""

    score: str = "cls"
    """What ranks tokens: the attention that CLS pays them (cls), the mean attention that they get
    from all (received; for models without CLS), or `module:FUNCTION` for one's own.
    """

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
    """How the values that cross the cut become bits."""

    codec: Literal["quantize", "klt"] = "quantize"
    """quantize: every value has the same number of bits, by the settings from `bits` to `entropy`;
    klt: a transform fitted to what crosses spends bits where they tell most, by `step`,
    `rate_bits` and the settings that name it.
    """

    step: Annotated[float, Field(ge=1e-12, le=1e12)] | Literal["auto"] = "auto"
    """Step size of klt, in units of the tensor: larger is coarser, and fewer bytes; auto: the one
    that takes `rate_bits`.
    """

    rate_bits: Annotated[float, Field(ge=0.01, le=8)] = 0.5
    """Bits a value that klt's `step: auto` aims at: 0.5 is 64 times fewer than float32."""

    fit: Literal["devices", "calibration"] = "devices"
    """What klt is fitted to (not of the downlink): what devices send first, which comes in 4 bits,
    or samples of the server's own (calibration: see `data.calibration`), which no device has.
    """

    weighting: bool = False
    """Whether klt is finer where an error would change more (not of the downlink): of activations
    the server's output (E[J^T J], J its Jacobian), of hidden states at a tail the loss, of their
    gradients the gradient of the server's adapter. Bases of states take more bytes.
    """

    spatial: bool = False
    """Whether klt also transforms between the patches of an image (uplink alone, all patches sent).
    It gains or loses by model and cut, which `cutlayer calibrate` tells.
    """

    known_tokens: bool = False
    """Whether klt tells a token that its label names by how much it differs from other such tokens
    (uplink alone, language models whose labels go up: each token of an answer is the label of the
    one before; with `fit: calibration`). The basis takes more bytes.
    """

    reuse: bool | None = None
    """Whether a device only names a sample whose activations it sent before (uplink alone, frozen
    devices). null: only in jobs where the trained adapter stays the same: without image
    augmentation, with 16 or 32 bits or klt, and with bandwidth shared equally.
    """

    variants: Annotated[int, Field(ge=1, le=64)] | None = None
    """With image augmentation and samples that are named (uplink alone): how many changed versions
    a sample has, of which each visit draws one; null: a new one each time, so that all are sent.
    """

    change: bool = False
    """Whether a sample goes up as what changed of its activations since its last visit, which both
    sides add to what they hold of it (uplink alone, trained devices, images).
    """

    bits: Bits = 32
    """Bits for a value: 1 to 8 quantise it; 16 (bfloat16) and 32 (float32) send it as it is."""

    levels: str = "uniform"
    """Values that can be told apart: uniform (equal steps from least to largest), gaussian
    (Lloyd-Max levels, scaled by the root mean square), or `module:FUNCTION` for one's own.
    """

    per: Literal["token", "tensor"] = "token"
    """What has a range (or root mean square) of its own: each token, or the whole tensor."""

    rounding: Literal["nearest", "stochastic"] = "nearest"
    """To the nearest level, or at random with the right mean (stochastic; uniform levels only). Of
    klt, gradients from a tail (tail_uplink) alone can be rounded at random: a single one is then
    told less well, but small ones are not left out, so that no error is the same at every step.
    """

    rotate: bool = False
    """Spread large values over the width by a Hadamard rotation with random signs, which the
    receiver undoes.
    """

    entropy: Literal["zstd", "none"] = "zstd"
    """Compress the packed bytes by zstandard where that makes them fewer, or never."""

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

    @property
    def value_bits(self) -> float:
        """Bits that a value takes: `rate_bits` with klt, else `bits`."""
        return self.rate_bits if self.codec == "klt" else self.bits

    @property
    def fits_own(self) -> bool:
        """Whether its codec is fitted to samples of the server's own."""
        return self.codec == "klt" and self.fit == "calibration"

    @model_validator(mode="after")
    def _unbiased_levels(self) -> Self:
        if (self.codec, self.rounding) == ("quantize", "stochastic") and self.levels != "uniform":
            raise ValueError(
                "rounding 'stochastic' is unbiased only between uniform levels, not "
                f"{self.levels!r}: set levels to 'uniform' or rounding to 'nearest'"
            )
        return self


class Method(Section):
    """A way of training: what runs where, what crosses the cut, and how adapters are combined."""

    renamed: ClassVar[Mapping[str, str]] = {"augmented": "generated"}

    name: str
    """A published method (see `cutlayer methods`), or `module:OBJECT` for one's own."""

    train: Literal["lora", "full"] = "lora"
    """What is trained: LoRA adapters and the head (lora), or every weight of the model (full)."""

    split: bool = True
    """Whether the blocks after the cut run on the server; without, a device runs all of them."""

    cut: Annotated[int, Field(ge=0)] | None = None
    """Blocks on the device, where the method fixes them; null: the job's `model.cut`."""

    device: Literal["trained", "frozen"] = "trained"
    """Whether the blocks before the cut are trained. With frozen no gradient returns, so that all
    goes one way.
    """

    order: Literal["parallel", "sequential"] = "parallel"
    """Devices train side by side, or one after another, each from the adapters of the last."""

    server_adapter: Literal["averaged", "shared", "in-turn"] = "averaged"
    """Adapters after the cut: one for each device, averaged when a round ends (averaged), or one
    for all, moved by the mean gradient of a step (shared) or by one device at a time (in-turn).
    """

    aggregate: Literal["fedavg", "none"] = "fedavg"
    """Adapters of the devices become their mean, weighted by samples (fedavg), or stay apart."""

    pooled: bool = False
    """Whether one party holds all the data: the reference `centralized`."""

    generated: bool | None = None
    """Whether the server trains on generated images too, as the job's `generated` section says;
    null: if there is such a section and adapters are averaged.
    """

    tokens: Tokens = Tokens()
    """Which tokens cross the cut."""

    uplink: Quantizer = Quantizer()
    """How activations are sent from devices to the server."""

    downlink: Quantizer = Quantizer()
    """How gradients of activations are sent from the server to devices."""

    tail_downlink: Quantizer | None = None
    """How hidden states are sent from the server to the last blocks, where `model.tail` has these
    on devices; null: as `downlink`. klt is fitted to those of the first round, which take 4 bits,
    unless by `fit`.
    """

    tail_uplink: Quantizer | None = None
    """How the gradients of those hidden states are sent back; null: as `uplink`. klt is fitted to
    those of the first round, which take 4 bits, unless by `fit`.
    """

    tail_tokens: Literal["all", "learnt"] = "all"
    """Of which tokens hidden states go to the last blocks and gradients come back: all, or only
    those after which a token is learnt (learnt; language models with `model.tail: 0`, whose norm
    and head look at one token at a time). The server is then told where these tokens are.
    """

    adapter_bits: Literal[16, 32] = 32
    """Bits for a weight of an adapter on its way: 16 (bfloat16) or 32 (float32)."""

    allocation: Allocation = Allocation()
    """Who takes part in a round, and with what."""

    @property
    def finest_rate_bits(self) -> float:
        """Bits a value that a basis of the uplink is fitted to: the most that a device may send."""
        if self.allocation.solver == "auto":
            return max(self.allocation.rates or RATES)
        return max((self.uplink.rate_bits, *self.allocation.rates))

    @property
    def features_down(self) -> Quantizer:
        """How hidden states go down to a tail on devices."""
        return self.tail_downlink or self.downlink

    @property
    def gradients_up(self) -> Quantizer:
        """How the gradients of those come back up."""
        return self.tail_uplink or self.uplink

    @property
    def own_code(self) -> dict[str, str]:
        """What may be a function of one's own, by the setting that names it."""
        return {
            "method.tokens.score": self.tokens.score,
            "method.uplink.levels": self.uplink.levels,
            "method.downlink.levels": self.downlink.levels,
            **self._tail_levels,
            "method.allocation.solver": self.allocation.solver,
        }

    @property
    def code_on_devices(self) -> dict[str, str]:
        """What a device would run of one's own code: the function by the setting that names it."""
        named = {
            "method.tokens.score": self.tokens.score,
            "method.uplink.levels": self.uplink.levels,
            **self._tail_levels,
        }
        return {setting: value for setting, value in named.items() if ":" in value}

    @property
    def _tail_levels(self) -> dict[str, str]:
        """The levels of the quantisers to and from a tail, where the method has them."""
        both = {"method.tail_downlink": self.tail_downlink, "method.tail_uplink": self.tail_uplink}
        return {f"{name}.levels": one.levels for name, one in both.items() if one is not None}
