"""GenFV: which vehicles, how the band is shared, and how much is generated (arXiv 2503.19676).

The paper splits the least delay of a round into a large scale (label sharing, vehicles by speed
and labels) and a small one (bandwidth, power, amount of generated data). Its formulas were not
available to us. The ones below are standard in the literature and inferred by us:

- EMD_n = sum_y |p_n(y) - p_g(y)|, in [0, 2], between a vehicle's labels and those of all.
- Vehicle n takes part if EMD_n <= EMD_max and it finishes within its stay time,
  T_cmp + T_up <= stay. T_up depends on the bandwidth, which is shared later, so the largest set of
  vehicles is taken that can finish together: those that need the least bandwidth.
- The band is split so that all vehicles finish together, by bisection on the round's time. The
  power is the largest that the energy allows in that time, min(p_max, E / T_up). Both are solved
  at once, exactly (see `uploads`).
- The server generates b images and trains on them while vehicles work. b is the largest number
  with b (t_gen + E_local c / f_server) <= max_n (T_cmp + T_up), so no round becomes longer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.radio_math import Bools, Floats, power_in_time
from cutlayer.allocate.uploads import Uploads, fastest


def mix(counts: npt.ArrayLike) -> Floats:
    """Shares p(y) of each class, from counts [..., C]; uniform where there are none.

    counts: samples of each class.
    """
    array = np.asarray(counts, dtype=np.float64)
    total = array.sum(axis=-1, keepdims=True)
    even = np.full_like(array, 1 / array.shape[-1])
    shares: Floats = np.divide(array, total, out=even, where=total > 0)
    return shares


def emd(counts: npt.ArrayLike, everyone: npt.ArrayLike) -> Floats:
    """EMD_n [...] in [0, 2] of label counts [..., C] against those of all devices [C].

    counts: samples of each class. everyone: the same of all devices together.
    """
    distance: Floats = np.abs(mix(counts) - mix(everyone)).sum(axis=-1)
    return distance


def select(uploads: Uploads, distance: Floats, distance_max: float) -> Bools:
    """Flags [M] of the vehicles that take part: their labels are near enough and all are in time.

    uploads: payloads and limits of M vehicles.
    distance: EMD_n [M]; distance_max: the largest allowed. Of the vehicles that are near enough,
    those are taken that need the least bandwidth to finish within their stay times. No larger set
    could finish.
    """
    need = np.where(distance <= distance_max, uploads.needed_hz(np.inf), np.inf)
    order = np.argsort(need, kind="stable")
    # The last digits of the sum must not decide whether the band suffices.
    fits = np.cumsum(need[order]) <= uploads.band_hz * (1 - 1e-9)
    chosen = np.zeros(len(need), dtype=np.bool_)
    chosen[order[fits]] = True
    return chosen


@dataclass(frozen=True, eq=False)
class VehicleShares:
    """What each vehicle gets: bandwidth_hz, power_w, upload_s and energy_j of its upload, [M] each.

    bandwidth_hz: Hz. power_w: radiated watts. upload_s: seconds. energy_j: joules.
    round_time_s: the seconds of the round.
    """

    bandwidth_hz: Floats
    power_w: Floats
    upload_s: Floats
    energy_j: Floats
    round_time_s: float


def share_band(uploads: Uploads) -> VehicleShares:
    """Bandwidth and power of the shortest round.

    uploads: payloads and limits of the vehicles that take part.
    A vehicle whose stay ends before the round does has sent everything by then. AllocationError
    where some vehicle cannot be in time.
    """
    time = fastest(uploads)
    air = uploads.air_time(time)
    power = power_in_time(air, uploads.power_max_w, uploads.energy_max_j)
    return VehicleShares(uploads.needed_hz(time), power, air, power * air, time)


def generated_amount(room_s: float, image_s: float, training_s: float, most: int) -> int:
    """b: how many images the server can draw and train on in `room_s` seconds, at most `most`.

    image_s: seconds to draw one image, t_gen. training_s: seconds to train on one image in all
    epochs, E_local c / f_server.
    """
    each = image_s + training_s
    if most * each <= room_s:
        return most
    fit = int(room_s / each)
    return fit - 1 if fit * each > room_s else fit
