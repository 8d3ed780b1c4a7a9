"""What a calibration says of a plan: statistics for its allocator, and how many predictions survive
its cuts, tokens and bits."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.decision import Decision, Setting, setting_of
from cutlayer.errors import AllocationError
from cutlayer.job import Job
from cutlayer.planning.calibration.record import Calibration, calibration_for
from cutlayer.settings.precision import Precision

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Survival:
    """How much of the predictions survives the cut, as the mean over a round's devices.

    agreement: share of predictions that are the same as without compression; least: that share on
    the device where it is smallest. accuracy: share that is correct; whole: the same without
    compression. between: whether some numbers of tokens or rates lie between measured ones.
    samples: how many were measured on.
    """

    agreement: float
    least: float
    accuracy: float
    whole: float
    between: bool
    samples: int

    def sentence(self) -> str:
        """For people."""
        how = "interpolated between measured tokens and rates" if self.between else "measured"
        return (
            f"{100 * self.agreement:.1f} % of predictions survive these cuts, tokens and bits "
            f"(least: {100 * self.least:.1f} %), with an accuracy of {100 * self.accuracy:.1f} % "
            f"against {100 * self.whole:.1f} % uncompressed: {how} on {self.samples} samples by "
            "cutlayer calibrate, before any training"
        )


class StatisticsFromCalibration:
    """Statistics from the job's calibration, the same for every device (see Measures)."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._found: dict[tuple[bool, Precision], Calibration | None] = {}

    def importance(self, devices: Sequence[int], cut: int) -> Floats:
        """See Measures. Raises AllocationError for a cut that was not calibrated."""
        curves = self._record(exact=False).importance
        return np.tile(self._at(curves, cut), (len(devices), 1))

    def importance_at_hand(self, devices: Sequence[int], cut: int) -> Floats | None:
        """See Measures. None without a calibration, and for a cut that was not calibrated."""
        found = self._find(exact=False)
        curve = found.importance.get(cut) if found else None
        return None if curve is None else np.broadcast_to(curve, (len(devices), len(curve)))

    def spread(self, devices: Sequence[int], cut: int) -> tuple[Floats, Floats]:
        """See Measures. Raises AllocationError for a cut that was not calibrated."""
        record = self._record(exact=False)
        spread, square = self._at(record.range_16, cut), self._at(record.mean_square, cut)
        return np.full(len(devices), spread), np.full(len(devices), square)

    def calibration(self, precision: Precision = "float32") -> Calibration:
        """See Measures."""
        return self._record(exact=True, precision=precision)

    def survival(self, decisions: Iterable[Decision], patches: int) -> Survival | None:
        """How many predictions survive these decisions; None if that was not measured."""
        plain = self._find(exact=True) if self.job.method.split else None
        if plain is None:
            return None
        alike = Counter(setting_of(one, self.job.method) for one in decisions)
        found = []
        for setting, devices in alike.items():
            record = self._find(exact=True, precision=setting.precision)
            if record is None:
                return None
            found.append((record, setting, devices))
        return _survival(plain, found, patches, self.job.method.uplink.codec == "klt")

    def _record(self, exact: bool, precision: Precision = "float32") -> Calibration:
        found = self._find(exact, precision)
        if found is None:
            kind = "" if precision == "float32" else f" in {precision}"
            raise AllocationError(
                f"method.allocation.solver: {self.job.method.allocation.solver!r} needs a "
                f"calibration, and this model and data were never calibrated{kind}: run cutlayer "
                "calibrate with this job first"
            )
        return found

    def _find(self, exact: bool, precision: Precision = "float32") -> Calibration | None:
        """The job's record, looked for once."""
        if (exact, precision) not in self._found:
            found = calibration_for(self.job, exact=exact, precision=precision)
            self._found[exact, precision] = found
        return self._found[exact, precision]

    def _at(self, by_cut: dict[int, Any], cut: int) -> Any:
        if cut not in by_cut:
            raise AllocationError(
                f"model.cut: {cut} was not calibrated, only {', '.join(map(str, by_cut))}: run "
                "cutlayer calibrate with this job, or take one of these"
            )
        return by_cut[cut]


def _survival(
    plain: Calibration,
    settings: Iterable[tuple[Calibration, Setting, int]],
    patches: int,
    rates: bool,
) -> Survival | None:
    """See StatisticsFromCalibration.survival. Between numbers of tokens it interpolates linearly.

    plain: the record of float32. settings: each with the record of its precision and how many
    devices have it. rates: whether bits may lie between measured ones; then it interpolates
    linearly in their logarithm.
    """
    found, counts, between = [], [], False
    for record, one, devices in settings:
        bits = one.bits
        keep = min(patches if one.tokens is None else one.tokens, record.tokens[-1])
        there = record.bits[0] <= bits <= record.bits[-1] if rates else bits in record.bits
        cuts = {*record.cuts} & {*plain.cuts}
        if one.cut not in cuts or not there or keep < record.tokens[0]:
            return None
        between = between or keep not in record.tokens or bits not in record.bits
        cut = record.cuts.index(one.cut)
        agreement, accuracy = (
            float(np.interp(keep, record.tokens, _at_bits(table[cut], record.bits, bits)))
            for table in (record.agreement, record.accuracy)
        )
        found.append(
            (agreement, accuracy, float(plain.accuracy[plain.cuts.index(one.cut), -1, -1]))
        )
        counts.append(devices)
    agreements, accuracies, whole = np.repeat(np.array(found), counts, axis=0).T
    if np.isnan(agreements).any():  # fewer than all tokens at cut 0, where nothing ranks them
        return None
    return Survival(
        float(agreements.mean()),
        float(agreements.min()),
        float(accuracies.mean()),
        float(whole.mean()),
        between,
        plain.samples,
    )


def _at_bits(table: Floats, measured: Sequence[float], bits: float) -> Floats:
    """The column [K] of a table [K, Q] at so many bits a value."""
    return np.array([np.interp(np.log(bits), np.log(measured), line) for line in table])
