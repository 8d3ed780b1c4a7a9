"""The radio link: noise, block fading, power gain and the rate it carries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cutlayer.world.units import Array, array, ratio


def noise_w_per_hz(dbm_per_hz: float = -174.0, figure_db: float = 0.0) -> float:
    """N0 = 10^((density + noise figure - 30) / 10), W/Hz."""
    return float(ratio(dbm_per_hz + figure_db - 30))


def rayleigh(rng: np.random.Generator, devices: int) -> Array:
    """Power of Rayleigh block fading [M]: exponential with mean 1; `World._fading` seeds rng."""
    return rng.standard_exponential(devices)


def rician(rng: np.random.Generator, devices: int, k_db: float) -> Array:
    """Power of Rician block fading [M], mean 1; k_db: ratio of steady to scattered power, in dB.

    |sqrt(K / (K + 1)) + CN(0, 1 / (K + 1))|^2.
    """
    k = float(ratio(k_db))
    scattered = rng.standard_normal((devices, 2)) * np.sqrt(0.5 / (k + 1))
    return array((np.sqrt(k / (k + 1)) + scattered[:, 0]) ** 2 + scattered[:, 1] ** 2)


def power_gain(
    loss_db: npt.ArrayLike, antennas_dbi: float = 0.0, fading: npt.ArrayLike = 1.0
) -> Array:
    """h = 10^((antenna gains - loss) / 10) * fading: received over sent power, shape of `loss_db`.

    loss_db: path loss and shadowing together.
    """
    return ratio(antennas_dbi - array(loss_db)) * array(fading)


@dataclass(frozen=True)
class Radio:
    """What turns bandwidth, power and gain into a rate.

    noise_w_per_hz: N0. snr_gap: ratio by which coding and modulation lower the signal-to-noise
    ratio (1: Shannon's bound).
    max_bps_per_hz: most bit/s for each Hz of bandwidth; None: no such limit.
    """

    noise_w_per_hz: float
    snr_gap: float = 1.0
    max_bps_per_hz: float | None = None

    def rate_bps(
        self, bandwidth_hz: npt.ArrayLike, power_w: npt.ArrayLike, gain: npt.ArrayLike
    ) -> Array:
        """R = W log2(1 + p h / (gap N0 W)) in bit/s; 0 where the bandwidth is 0."""
        width = array(bandwidth_hz)
        received = array(power_w) * array(gain)
        noise = self.snr_gap * self.noise_w_per_hz * width
        snr = np.divide(received, noise, out=np.zeros(np.broadcast(received, noise).shape),
                        where=noise > 0)  # fmt: skip
        # log1p keeps the small SNRs of wide bands exact.
        efficiency = np.log1p(snr) / np.log(2)
        if self.max_bps_per_hz is not None:
            efficiency = np.minimum(efficiency, self.max_bps_per_hz)
        return array(width * efficiency)

    def gain_for(
        self, rate_bps: npt.ArrayLike, bandwidth_hz: float, power_w: npt.ArrayLike
    ) -> Array:
        """The gain h at which a bandwidth and power carry a rate: the inverse of `rate_bps`."""
        snr = np.expm1(array(rate_bps) / bandwidth_hz * np.log(2))
        return array(snr * self.snr_gap * self.noise_w_per_hz * bandwidth_hz / array(power_w))

    def broadcast_bps(self, bandwidth_hz: float, power_w: float, gain: Array) -> float:
        """Bit/s of one message to M devices: the rate of the worst gain [M] (ST-SFLora's R_DL)."""
        return float(self.rate_bps(bandwidth_hz, power_w, gain.min()))
