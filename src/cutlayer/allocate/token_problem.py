"""ST-SFLora's problem P0 as arrays: which tokens, bandwidth and power give the largest STE.

P0 (arXiv 2605.26120): over tokens K_m, bandwidths W_m and powers p_m of M devices maximise the
semantic transmission efficiency STE = sum_m f_m(K_m) / max_m T_m, T_m = S_m / R(W_m, p_m),
S_m = beta_m (K_m + 2), subject to 0 <= p_m <= p_max, sum W_m <= W_tot, K_min <= K_m <= N,
p_m T_m <= E_max and T_0 + T_m <= the standing time.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.device_arrays import device_array, device_numbers, no_numbers, positive
from cutlayer.allocate.radio_math import (
    LN2,
    Bools,
    Floats,
    Ints,
    least_bandwidth,
    power_in_time,
    power_under_energy,
    rate,
)
from cutlayer.errors import AllocationError


@dataclass(frozen=True, eq=False)
class TokenProblem:
    """P0 for the M devices that take part.

    gain: [M] channel power gain h. power_max_w, energy_max_j: [M] limits of an upload; energy may
    be inf. time_max_s: [M] standing time left, may be inf. fixed_time_s: [M] T_0, broadcast and
    device forward. bits_per_token: [M] beta = B D q. importance: [M, N + 1], importance[m, K] =
    f_m(K), cumulative, non-decreasing and concave. bandwidth_total_hz: W_tot. noise_w_per_hz: N0.
    tokens_min: K_min >= 1. extra_tokens: what is sent besides the K tokens kept, counted in tokens
    (CLS, the merged token, and what frames add).
    A single number stands for all devices alike. numbers: [M] the numbers by which errors name
    devices; by default 0, 1, 2, ...
    """

    gain: Floats
    power_max_w: Floats
    energy_max_j: Floats
    time_max_s: Floats
    fixed_time_s: Floats
    bits_per_token: Floats
    importance: Floats
    bandwidth_total_hz: float
    noise_w_per_hz: float
    tokens_min: int = 1
    extra_tokens: float = 2
    numbers: Ints = field(default_factory=no_numbers)

    def __post_init__(self) -> None:
        curves = np.atleast_2d(np.asarray(self.importance, dtype=np.float64))
        M, N = len(curves), curves.shape[1] - 1
        numbers = device_numbers(self.numbers, M)
        object.__setattr__(self, "numbers", numbers)
        for name, zero, inf in (
            ("gain", False, False),
            ("power_max_w", False, False),
            ("energy_max_j", False, True),
            ("time_max_s", True, True),
            ("fixed_time_s", True, False),
            ("bits_per_token", False, False),
        ):
            array = device_array(name, getattr(self, name), numbers, zero=zero, inf=inf)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "importance", curves)
        positive("bandwidth_total_hz", self.bandwidth_total_hz)
        positive("noise_w_per_hz", self.noise_w_per_hz)
        if not 1 <= self.tokens_min <= N:
            raise AllocationError(
                f"tokens_min is {self.tokens_min}: it must be 1 to {N}, the tokens of a sample"
            )
        if not np.isfinite(curves).all():
            m = int(np.argmin(np.isfinite(curves).all(axis=1)))
            raise AllocationError(
                f"importance of device {numbers[m]} is not finite: measure it again"
            )
        steps = np.diff(curves, axis=1)
        slack = 1e-9 * np.maximum(np.abs(curves).max(axis=1), 1e-300)
        bad = (steps < -slack[:, None]).any(axis=1) | (np.diff(steps, axis=1) > slack[:, None]).any(
            axis=1
        )
        if bad.any():
            raise AllocationError(
                f"importance of device {numbers[np.argmax(bad)]} is not increasing and concave in "
                "the tokens kept: sum the scores in descending order"
            )

    @property
    def devices(self) -> int:
        """How many devices take part (M)."""
        return len(self.gain)

    @property
    def tokens_max(self) -> int:
        """The most tokens of a sample (N)."""
        return int(self.importance.shape[1]) - 1

    @property
    def gain_over_noise(self) -> Floats:
        """[M] h / N0 in Hz per watt."""
        return self.gain / self.noise_w_per_hz

    @property
    def upload_max_s(self) -> Floats:
        """[M] seconds of the standing time left for the upload; 0 or less: none are left."""
        return self.time_max_s - self.fixed_time_s

    def payload_bits(self, tokens: npt.ArrayLike) -> Floats:
        """S = beta (K + extra) in bits, for tokens [..., M]."""
        bits: Floats = self.bits_per_token * (np.asarray(tokens) + self.extra_tokens)
        return bits

    def bandwidth_needed_hz(self, tokens: npt.ArrayLike, round_time_s: npt.ArrayLike) -> Floats:
        """Least bandwidth w_m(K_m, tau) in Hz for tokens [..., M] and one or more round times."""
        time = np.minimum(round_time_s, self.upload_max_s)
        return least_bandwidth(
            self.payload_bits(tokens),
            time,
            self.power_max_w,
            self.energy_max_j,
            self.gain_over_noise,
        )

    def value(self, tokens: Ints) -> Floats:
        """Sum over devices of f_m(K_m), for tokens [..., M]."""
        total: Floats = self.importance[np.arange(self.devices), tokens].sum(axis=-1)
        return total


@dataclass(frozen=True, eq=False)
class TokenPlan:
    """An allocation of P0 or of a baseline.

    tokens (int64), bandwidth_hz, power_w: [M]. time_s [M]: seconds of the upload T_U; energy_j [M]:
    its energy. round_time_s: the largest T_U. importance: sum f_m(K_m). ste: importance /
    round_time_s, per second.
    """

    tokens: Ints
    bandwidth_hz: Floats
    power_w: Floats
    time_s: Floats
    energy_j: Floats
    round_time_s: float
    importance: float
    ste: float


def plan_with_costs(
    problem: TokenProblem, tokens: Ints, bandwidth_hz: Floats, power_w: Floats
) -> TokenPlan:
    """The plan that these decisions make, with times and energies computed from them."""
    speed = rate(bandwidth_hz, power_w, problem.gain_over_noise)
    with np.errstate(divide="ignore"):
        time = problem.payload_bits(tokens) / speed
    importance = float(problem.value(tokens))
    longest = float(time.max())
    return TokenPlan(
        tokens=tokens.astype(np.int64),
        bandwidth_hz=bandwidth_hz,
        power_w=power_w,
        time_s=time,
        energy_j=power_w * time,
        round_time_s=longest,
        importance=importance,
        ste=efficiency(importance, longest),
    )


def efficiency(importance: float, upload_s: float) -> float:
    """STE per second: the importance of all tokens sent, over the seconds of the longest upload."""
    return importance / upload_s


def plan_for_time(problem: TokenProblem, tokens: Ints, round_time_s: float) -> TokenPlan:
    """The plan that sends these tokens in this round time with the least bandwidth each."""
    time = np.minimum(round_time_s, problem.upload_max_s)
    power = power_in_time(time, problem.power_max_w, problem.energy_max_j)
    return plan_with_costs(
        problem, tokens, problem.bandwidth_needed_hz(tokens, round_time_s), power
    )


def violations(problem: TokenProblem, plan: TokenPlan, tolerance: float = 1e-9) -> list[str]:
    """A sentence for each constraint of P0 that a plan breaks by more than a relative tolerance."""
    high = 1 + tolerance
    broken: list[str] = []
    for sentence, holds in (
        ("tokens are not between tokens_min and N", _between(problem, plan)),
        ("power is above power_max_w", plan.power_w <= problem.power_max_w * high),
        ("energy is above energy_max_j", plan.energy_j <= problem.energy_max_j * high),
        ("upload ends after the standing time", plan.time_s <= problem.upload_max_s * high),
    ):
        broken += [f"device {number}: {sentence}" for number in problem.numbers[~holds]]
    if plan.bandwidth_hz.sum() > problem.bandwidth_total_hz * high:
        broken.append("the bandwidths sum to more than bandwidth_total_hz")
    return broken


def _between(problem: TokenProblem, plan: TokenPlan) -> Bools:
    result: Bools = (plan.tokens >= problem.tokens_min) & (plan.tokens <= problem.tokens_max)
    return result


def obstacles(problem: TokenProblem) -> list[str]:
    """Why P0 has no solution, a sentence for each reason; [] where it has one.

    Each device is tried alone first: standing time, then energy, then both with the whole band. If
    all pass, they are tried together: the bandwidth they need at K_min when each uses its whole
    standing time.
    """
    left, need = (
        problem.upload_max_s,
        problem.bandwidth_needed_hz(np.full(problem.devices, problem.tokens_min), np.inf),
    )
    payload = problem.payload_bits(problem.tokens_min)
    least_energy = payload * LN2 / problem.gain_over_noise
    band = problem.bandwidth_total_hz
    alone = np.minimum(
        problem.power_max_w,
        power_under_energy(payload, band, problem.energy_max_j, problem.gain_over_noise),
    )
    with np.errstate(divide="ignore"):
        least_time = problem.fixed_time_s + payload / rate(band, alone, problem.gain_over_noise)
    what = f"{problem.tokens_min} tokens"
    found: list[str] = []
    for m in np.flatnonzero(~(need <= band)):
        device = f"device {problem.numbers[m]}"
        if problem.energy_max_j[m] <= least_energy[m]:
            found.append(
                f"energy_max_j of {device} is {problem.energy_max_j[m]:.6g}: sending {what} "
                f"over its link takes more than {least_energy[m]:.6g} J"
            )
        else:
            found.append(
                f"time_max_s of {device} is {problem.time_max_s[m]:.6g}: with the whole band to "
                f"itself it needs {least_time[m]:.6g} s to send {what}, {left[m]:.6g} s being "
                "left for the upload"
            )
    if not found and need.sum() > band:
        most = int(np.argmax(need))
        found.append(
            f"bandwidth_total_hz is {band:.6g}: to send {what} each within their standing times "
            f"the {problem.devices} devices need {need.sum():.6g} Hz, device "
            f"{problem.numbers[most]} the most of it ({need[most]:.6g} Hz)"
        )
    return found


def require_feasible(problem: TokenProblem) -> None:
    """Raise AllocationError with the first of `obstacles`, if there is one."""
    found = obstacles(problem)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise AllocationError(found[0] + more)
