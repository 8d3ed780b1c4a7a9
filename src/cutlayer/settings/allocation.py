"""The allocation of a method: what decides who takes part in a round and with what."""

from typing import Annotated

from pydantic import Field, field_validator

from cutlayer.settings.precision import PRECISIONS, Precision
from cutlayer.settings.section import Bits, Section

SOLVERS = ("equal", "asfl", "st-sflora", "exact", "sflam", "asfv", "auto", "genfv")
RATES = (0.06, 0.12, 0.25, 0.5, 1.0)
"""Bits a value that auto chooses between with codec klt where the job names none."""


class Allocation(Section):
    """Who takes part in a round, with which cut, tokens, bits, bandwidth and power."""

    solver: str = "equal"
    """What decides: equal (the method's own cut, tokens and bits, equal bandwidth, full power),
    asfl, st-sflora, exact, sflam, asfv, auto, genfv, or `module:FUNCTION` for one's own.
    """

    cuts: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Cuts that asfl, asfv and auto choose from; empty: spread over the model's depth."""

    rates_bps: tuple[Annotated[float, Field(ge=0)], ...] = (0.0, 10e6, 20e6, 40e6)
    """Of asfl: the least uplink rate for each of `cuts`, rising, in bit/s; the latest cut first."""

    tokens_min: Annotated[int, Field(ge=1)] = 1
    """Of st-sflora and exact: the fewest tokens a device may send of a sample (K_min)."""

    tokens: tuple[Annotated[int, Field(ge=1)] | None, ...] = ()
    """Of auto: numbers of tokens to choose from, null among them for all; empty: those that were
    calibrated.
    """

    bits: tuple[Bits, ...] = ()
    """Of sflam and auto: numbers of bits to choose from; empty: 2, 4, 8, 16 and 32 of sflam, and
    of auto those that were calibrated.
    """

    rates: tuple[Annotated[float, Field(ge=0.01, le=8)], ...] = ()
    """Of auto with uplink.codec klt: bits a value, of which the least and the largest bound what it
    chooses, and all are calibrated; empty: 0.06, 0.12, 0.25, 0.5 and 1.
    """

    precisions: tuple[Precision, ...] = ("float32",)
    """Of auto: numbers in which a device may compute its frozen blocks, float32 among them. float16
    and int8 run as programs of light devices (`pip install cutlayer[onnx]`); `cutlayer calibrate`
    measures what they change, and `world.fleet` says how much faster they are.
    """

    latency_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of sflam: weight of seconds against joules in what it minimises (lambda), 0 to 1."""

    error_budget: Annotated[float, Field(gt=0)] = 0.1
    """Of sflam: the largest relative squared error of quantisation, as a mean over devices."""

    quality_min: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Of auto: share of predictions that must survive the cut, as `cutlayer calibrate` measures."""

    leakage_max: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of auto: the largest share of images that may be re-identified from what crosses the cut, as
    `cutlayer audit` measures for this job, which must have run first; null: any.
    """

    time_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of auto: what a second of the round costs in what it minimises."""

    energy_weight: Annotated[float, Field(ge=0)] = 0.0
    """Of auto: what a joule of a device costs in what it minimises."""

    bytes_weight: Annotated[float, Field(ge=0)] = 0.0
    """Of auto: what a byte on the air costs in what it minimises."""

    emd_max: Annotated[float, Field(ge=0, le=2)] = 2.0
    """Of genfv: the largest distance (EMD) of a device's labels from all labels at which it takes
    part, 0 to 2; 2 takes any.
    """

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
        if any(b > 8 and b not in (16, 32) for b in bits):
            raise ValueError(
                f"{list(bits)} has bits that no frame can hold: choose from 1 to 8, 16 and 32"
            )
        return tuple(sorted(set(bits)))

    @field_validator("precisions")
    @classmethod
    def _with_float32(cls, precisions: tuple[Precision, ...]) -> tuple[Precision, ...]:
        if "float32" not in precisions:
            raise ValueError(
                f"{list(precisions)} lacks float32, in which devices with torch compute: add it"
            )
        return tuple(one for one in PRECISIONS if one in precisions)

    @field_validator("rates")
    @classmethod
    def _rising_rates(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(rates)))
