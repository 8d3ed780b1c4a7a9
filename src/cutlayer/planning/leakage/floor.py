"""Which settings leak little enough for `auto`: those whose measured leakage is below a limit."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cutlayer.errors import AllocationError
from cutlayer.planning.calibration.record import Calibration
from cutlayer.planning.calibration.survey_result import Floats
from cutlayer.planning.leakage.record import Leakage

Bools = npt.NDArray[np.bool_]


def reidentified_at(table: Calibration, found: Leakage | None) -> Floats:
    """The share of images that an audit re-identified at each setting of a calibration [C, K, Q];
    NaN where it was not audited.

    With a fitted codec, rates between two audited ones leak as the worse of both. Raises
    AllocationError where there was no audit (None).
    """
    if found is None:
        raise AllocationError(
            "method.allocation.leakage_max: what crosses was never attacked for this model, data, "
            "codec and noise: run cutlayer audit with this job first, or leave it out"
        )
    at = np.full((len(table.cuts), len(table.tokens), len(table.bits)), np.nan)
    for c, cut in enumerate(table.cuts):
        for k, kept in enumerate(table.tokens):
            if cut in found.cuts and kept in found.tokens:
                line = found.reidentified[found.cuts.index(cut), found.tokens.index(kept)]
                at[c, k] = [_between(found, line, bits) for bits in table.bits]
    return at


def _between(found: Leakage, line: Floats, bits: float) -> float:
    """Of a line [Q] of the table the value at so many bits."""
    measured: Sequence[float] = found.bits
    if bits in measured:
        return float(line[measured.index(bits)])
    above = int(np.searchsorted(measured, bits))
    fitted = found.subject.quantizer.get("codec") == "klt"
    # 32 stands for whole floats, which is no rate.
    if not fitted or above == 0 or measured[above] == 32:
        return float("nan")
    return float(line[above - 1 : above + 1].max())


def little_enough(shares: Floats, quality: Floats, most: float, quality_min: float) -> Bools:
    """Which settings [C, K, Q] leak no more than `most`. Raises AllocationError where none of
    enough quality does.
    """
    enough = quality >= quality_min
    allowed: Bools = np.nan_to_num(shares, nan=np.inf) <= most
    if (allowed & enough).any() or not enough.any():
        return allowed
    audited = shares[enough & ~np.isnan(shares)]
    if not len(audited):
        raise AllocationError(
            "method.allocation.leakage_max: no setting of enough quality was audited: run cutlayer "
            "audit with this job and --cuts, --tokens and --bits that were calibrated"
        )
    raise AllocationError(
        f"method.allocation.leakage_max: {most:g} is below what every setting of enough quality "
        f"leaks that was audited, of which the least is {audited.min():g}: audit others, allow "
        "more, ask for less quality, or add privacy.activation_noise"
    )
