"""What `auto` chooses from: cuts, tokens and bits with their measured quality and their costs.

Where devices may compute in several precisions, each stands for cuts of its own: the axis of cuts
has every cut once for each.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from cutlayer.allocate.device_arrays import (
    device_array,
    device_numbers,
    no_numbers,
    positive,
    subset,
)
from cutlayer.allocate.radio_math import LN2, Bools, Floats, Ints, least_bandwidth
from cutlayer.allocate.uploads import Uploads, fastest
from cutlayer.errors import AllocationError


@dataclass(frozen=True, eq=False)
class OptionProblem:
    """M devices; C cuts, K token counts and Q bit widths.

    For each device, [M] or one number: gain; power_max_w; energy_max_j for computing and upload
    (inf: no limit); time_max_s, its stay time or the round's deadline (inf: no limit);
    fixed_time_s, the seconds that no option changes (broadcast, say); flops_per_s; joules_per_flop;
    memory_max_bytes (inf: no limit); downlink_bps (inf: takes no time); samples: how many it has.
    For each option, [C, K, Q] or what broadcasts to it: quality, as measured; per sample:
    device_flops, payload_bits (up), downlink_bits and server_time_s; per round: adapter_bits (up)
    and memory_bytes on the device.
    held [M, C, K, Q]: whether the server already has the device's samples of that option. The
    device then computes nothing and sends only the samples' names, named_bits a sample.
    barred [M, C]: whether the device can compute nothing at that cut, in that precision.
    quality_min: the least quality allowed. bandwidth_total_hz, noise_w_per_hz: of the uplink.
    numbers: [M] the numbers by which errors name devices; by default 0, 1, 2, ...
    """

    gain: Floats
    power_max_w: Floats
    energy_max_j: Floats
    time_max_s: Floats
    fixed_time_s: Floats
    flops_per_s: Floats
    joules_per_flop: Floats
    memory_max_bytes: Floats
    downlink_bps: Floats
    quality: Floats
    device_flops: Floats
    payload_bits: Floats
    memory_bytes: Floats
    server_time_s: Floats
    downlink_bits: Floats
    quality_min: float
    bandwidth_total_hz: float
    noise_w_per_hz: float
    samples: Floats | float = 1.0
    adapter_bits: Floats | float = 0.0
    held: Bools | bool = False
    barred: Bools | None = None
    named_bits: float = 0.0
    numbers: Ints = field(default_factory=no_numbers)

    def __post_init__(self) -> None:
        M = np.size(self.gain)
        numbers = device_numbers(self.numbers, M)
        object.__setattr__(self, "numbers", numbers)
        for name, zero, inf in (
            ("gain", False, False),
            ("power_max_w", False, False),
            ("energy_max_j", False, True),
            ("time_max_s", False, True),
            ("fixed_time_s", True, False),
            ("flops_per_s", False, False),
            ("joules_per_flop", True, False),
            ("memory_max_bytes", True, True),
            ("downlink_bps", False, True),
            ("samples", False, False),
        ):
            array = device_array(name, getattr(self, name), numbers, zero=zero, inf=inf)
            object.__setattr__(self, name, array)
        quality = np.asarray(self.quality, dtype=np.float64)
        if quality.ndim != 3 or np.isnan(quality).any():
            raise AllocationError(
                f"quality has shape {quality.shape}: it must be numbers for cuts, tokens and bits"
            )
        object.__setattr__(self, "quality", quality)
        for name in OPTION_COSTS:
            table = np.broadcast_to(
                np.asarray(getattr(self, name), dtype=np.float64), quality.shape
            )
            good = (table >= 0) & np.isfinite(table)
            if not good.all():
                where = tuple(int(i) for i in np.argwhere(~good)[0])
                raise AllocationError(
                    f"{name} at cut, tokens, bits {where} is {table[where]:g}: it must be 0 or "
                    "more and finite"
                )
            object.__setattr__(self, name, table)
        held = np.broadcast_to(np.asarray(self.held, dtype=np.bool_), (M, *quality.shape))
        object.__setattr__(self, "held", held)
        positive("bandwidth_total_hz", self.bandwidth_total_hz)
        positive("noise_w_per_hz", self.noise_w_per_hz)


OPTION_COSTS = (
    "device_flops",
    "payload_bits",
    "downlink_bits",
    "server_time_s",
    "adapter_bits",
    "memory_bytes",
)


@dataclass(frozen=True, eq=False)
class Options:
    """The O options that are worth trying, for the m devices that can take part.

    index [O]: place of the option in the flattened quality table.
    gain_over_noise, limit_s, power_max_w, energy_max_j, numbers: [m].
    payload_bits, fixed_s, compute_energy_j: [m, O], for a whole round.
    able: [m, O] whether the device's memory suffices and it can compute so.
    """

    index: Ints
    gain_over_noise: Floats
    limit_s: Floats
    power_max_w: Floats
    energy_max_j: Floats
    payload_bits: Floats
    fixed_s: Floats
    compute_energy_j: Floats
    able: Bools
    band_hz: float
    numbers: Ints

    def needed_hz(self, round_time_s: float) -> Floats:
        """Least bandwidth in Hz [m, O]; inf where memory, energy or time rules the option out."""
        left = self.energy_max_j[:, None] - self.compute_energy_j
        air = np.minimum(round_time_s, self.limit_s)[:, None] - self.fixed_s
        need = least_bandwidth(
            self.payload_bits,
            air,
            self.power_max_w[:, None],
            np.maximum(left, 0.0),
            self.gain_over_noise[:, None],
        )
        return np.where(self.able & (left >= 0) & (air >= 0), need, np.inf)

    def uploads(self, choice: Ints) -> Uploads:
        """The uploads of the m devices where device i takes option choice[i]."""
        rows = np.arange(len(choice))
        return Uploads(
            payload_bits=self.payload_bits[rows, choice],
            fixed_s=self.fixed_s[rows, choice],
            limit_s=self.limit_s,
            power_max_w=self.power_max_w,
            energy_max_j=np.maximum(self.energy_max_j - self.compute_energy_j[rows, choice], 0.0),
            gain_over_noise=self.gain_over_noise,
            band_hz=self.band_hz,
            numbers=self.numbers,
        )


def options_of(problem: OptionProblem, *, drop: bool) -> tuple[Options, Ints]:
    """The options worth looking at, and the indices of the devices that can take part.

    With `drop`, devices without any option are left out; then, as long as the band is too narrow
    for the others even in the longest round, the device that needs most of it. AllocationError
    if a device would be left out without `drop`, or if no device is left.
    """
    index = _worth_trying(problem)
    flat = {name: getattr(problem, name).ravel()[index] for name in OPTION_COSTS}
    samples = np.asarray(problem.samples)[:, None]
    held = np.asarray(problem.held).reshape(len(samples), -1)[:, index]
    payload = np.where(held, problem.named_bits, flat["payload_bits"])
    computed = np.where(held, 0.0, flat["device_flops"])
    options = Options(
        index=index,
        gain_over_noise=problem.gain / problem.noise_w_per_hz,
        limit_s=problem.time_max_s,
        power_max_w=problem.power_max_w,
        energy_max_j=problem.energy_max_j,
        payload_bits=samples * payload + flat["adapter_bits"],
        fixed_s=problem.fixed_time_s[:, None]
        + samples * computed / problem.flops_per_s[:, None]
        + samples * flat["downlink_bits"] / problem.downlink_bps[:, None]
        + samples * flat["server_time_s"],
        compute_energy_j=samples * computed * problem.joules_per_flop[:, None],
        able=(flat["memory_bytes"] <= problem.memory_max_bytes[:, None]) & ~_barred(problem, index),
        band_hz=problem.bandwidth_total_hz,
        numbers=problem.numbers,
    )
    need = options.needed_hz(np.inf).min(axis=1)
    members = np.flatnonzero(need <= options.band_hz)
    if not drop and len(members) < len(need):
        m = int(np.argmax(~(need <= options.band_hz)))
        raise AllocationError(_reason(options, m, problem, float(flat["memory_bytes"].min())))
    order = members[np.argsort(need[members], kind="stable")]
    fit = int(np.searchsorted(np.cumsum(need[order]), options.band_hz, side="right"))
    if not drop and fit < len(order):
        most = order[-1]
        raise AllocationError(
            f"bandwidth_total_hz is {options.band_hz:.6g}: within their time limits the "
            f"{len(order)} devices need {need.sum():.6g} Hz, device {options.numbers[most]} the "
            f"most of it ({need[most]:.6g} Hz)"
        )
    members = np.sort(order[:fit])
    if not len(members):
        raise AllocationError(
            "no device can take part: "
            + _reason(options, int(np.argmin(need)), problem, float(flat["memory_bytes"].min()))
        )
    return _only(options, members), members


def _worth_trying(problem: OptionProblem) -> Ints:
    """Flat indices of the options of enough quality that are worth trying.

    These are the options that no other beats in every cost, and those of which the server holds
    some device's samples.
    """
    quality = problem.quality.ravel()
    enough = np.flatnonzero(quality >= problem.quality_min)
    if not len(enough):
        raise AllocationError(
            f"quality_min is {problem.quality_min:g}: the best measured is {quality.max():.6g}: "
            "lower it, or calibrate other cuts, tokens or bits"
        )
    # Best quality first, so that of two options with equal costs the better one stays.
    enough = enough[np.argsort(-quality[enough], kind="stable")]
    costs = np.stack([getattr(problem, name).ravel()[enough] for name in OPTION_COSTS], axis=1)
    held = np.any(np.asarray(problem.held).reshape(len(problem.gain), -1)[:, enough], axis=0)
    kept: list[int] = []
    barred = _barred(problem, enough)
    some = bool(barred.any())
    for i in np.lexsort((np.arange(len(costs)), costs.sum(axis=1))):
        beaten = (costs[kept] <= costs[i]).all(axis=1)
        if some and beaten.any():  # by what is open to all devices to which this one is
            beaten &= (barred[:, kept] <= barred[:, [i]]).all(axis=0)
        if bool(held[i]) or not beaten.any():
            kept.append(int(i))
    return np.sort(enough[kept])


def _barred(problem: OptionProblem, index: Ints) -> Bools:
    """Which devices cannot take the options at flat indices [O]: [M, O]; [1, O] where all can."""
    if problem.barred is None:
        return np.zeros((1, len(index)), dtype=np.bool_)
    cuts, *_ = np.unravel_index(index, problem.quality.shape)
    found: Bools = problem.barred[:, cuts]
    return found


def _only(options: Options, members: Ints) -> Options:
    names = (
        "gain_over_noise",
        "limit_s",
        "power_max_w",
        "energy_max_j",
        "payload_bits",
        "fixed_s",
        "compute_energy_j",
        "able",
        "numbers",
    )
    return replace(options, **{name: getattr(options, name)[members] for name in names})


def _reason(options: Options, m: int, problem: OptionProblem, least_bytes: float) -> str:
    """Why the device at place m can take none of the options, and what would let it."""
    device = f"device {options.numbers[m]}"
    if problem.barred is not None and _barred(problem, options.index)[m].all():
        return (
            f"{device} can compute none of the options of enough quality: lower quality_min, which "
            f"is {problem.quality_min:g}"
        )
    if not options.able[m].any():
        return (
            f"memory_max_bytes of {device} is {problem.memory_max_bytes[m]:.6g}: the options of "
            f"enough quality take {least_bytes:.6g} and more"
        )
    able = np.flatnonzero(options.able[m])
    least = options.compute_energy_j[m] + options.payload_bits[m] * LN2 / options.gain_over_noise[m]
    if not (least[able] < options.energy_max_j[m]).any():
        return (
            f"energy_max_j of {device} is {options.energy_max_j[m]:.6g}: the options of enough "
            f"quality take more than {least[able].min():.6g} J"
        )
    one = _only(options, np.array([m]))
    times = []
    for choice in able[least[able] < options.energy_max_j[m]]:
        uploads = subset(one.uploads(np.array([choice])), np.array([0]))
        times.append(fastest(replace(uploads, limit_s=np.array([np.inf]))))
    return (
        f"time_max_s of {device} is {options.limit_s[m]:.6g}: with the whole band to itself it "
        f"needs {min(times):.6g} s at the quickest option of enough quality"
    )
