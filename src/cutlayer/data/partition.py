"""Divides samples among devices: each sample goes to one device, or devices draw them freely.

Flower's partitioners are not used: they need `datasets`, the pathological one drops the classes
that no device drew, and the Dirichlet one cuts each class in file order and tries ten times in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cutlayer.data.dataset import Indices, holdout, largest_remainder
from cutlayer.data.drawn import DrawnShares
from cutlayer.errors import DataError
from cutlayer.seeds import numpy_rng
from cutlayer.settings.data import Partition

MOST_TESTED = 10_000
"""The most devices of partition `drawn` that can each be tested on samples of their own."""

DRAWS = 1000
"""How often a random division is drawn before the search for one with the minimum size ends."""


def partition(
    labels: npt.ArrayLike, partition: Partition, devices: int, seed: int
) -> Sequence[Indices]:
    """Divide samples over devices; the same arguments give the same division.

    labels: int [n]. Returns a sorted array of indices for each device. The arrays are disjoint,
    cover 0..n-1 and have min_samples indices or more each; for `drawn` see `DrawnShares`.

    - `iid`: equal sizes (within one sample), classes at random.
    - `dirichlet`: each class is shared out in proportions drawn from Dirichlet(alpha), as in
      Hsu et al. 2019 (arXiv:1909.06335); drawn anew up to DRAWS times until the minimum holds.
    - `labels`: exactly `labels_per_device` classes a device; a class goes to about equally many
      devices (never more than it has samples) and is split evenly among them.
    - `powerlaw`: the minimum for each, the rest in proportion to rank**-exponent with the ranks
      shuffled over the devices; classes at random.

    Raises DataError when no such division exists or none was found; it names values that work.
    """
    array = np.asarray(labels, dtype=np.int64)
    if partition.kind == "drawn":
        return DrawnShares(len(array), devices, partition.samples_per_device, seed)
    least = partition.min_samples
    if not 1 <= devices <= len(array) // least:
        raise DataError(
            f"devices.count={devices} does not fit {len(array)} training samples with "
            f"data.partition.min_samples={least}: take at most {len(array) // least} devices"
            + (f" or min_samples={len(array) // devices}" if 1 <= devices <= len(array) else "")
        )
    rng = numpy_rng(seed, "partition", partition.kind)
    if partition.kind == "iid":
        sizes = largest_remainder(np.ones(devices), len(array))
        return _by_size(sizes, rng)
    if partition.kind == "powerlaw":
        weights = np.arange(1, devices + 1, dtype=np.float64) ** -partition.exponent
        sizes = least + largest_remainder(weights, len(array) - devices * least)
        return _by_size(rng.permutation(sizes), rng)

    counts = np.unique(array, return_counts=True)[1]
    if partition.kind == "dirichlet":
        shares, best = _draw(lambda: _dirichlet(counts, partition.alpha, devices, rng), least)
        if shares is None:
            raise DataError(_refusal(counts, partition, devices, seed, best))
    else:
        _check_labels(counts, partition.labels_per_device, devices)
        shares, best = _draw(
            lambda: _labels(counts, partition.labels_per_device, devices, rng), least
        )
        if shares is None:
            raise DataError(
                f"data.partition.min_samples={least} does not hold with "
                f"devices.count={devices} and labels_per_device={partition.labels_per_device} in "
                f"{DRAWS} draws: take min_samples={best} or fewer devices"
            )
    return _by_class(array, shares, rng)


def divide(
    labels: npt.ArrayLike, settings: Partition, devices: int, seed: int
) -> tuple[Sequence[Indices], Sequence[Indices]]:
    """Indices of the samples that each device trains on [M] and is tested on [M]; see `partition`.

    A device is tested on the share `held_out` of each of its classes, drawn by seed and device.
    Raises DataError as `partition` does, and if more than MOST_TESTED devices would be tested.
    """
    array = np.asarray(labels, dtype=np.int64)
    if settings.held_out and settings.kind == "drawn" and devices > MOST_TESTED:
        raise DataError(
            f"data.partition.held_out={settings.held_out:g} with devices.count={devices}: at most "
            f"{MOST_TESTED:,} devices that draw their samples can be tested on samples of their "
            "own: leave held_out at 0"
        )
    shares = partition(array, settings, devices, seed)
    if not settings.held_out:
        return shares, [np.empty(0, dtype=np.int64)] * len(shares)
    tested = [
        share[holdout(array[share], settings.held_out, numpy_rng(seed, device, "held-out"))]
        for device, share in enumerate(shares)
    ]
    trained = [np.setdiff1d(share, out) for share, out in zip(shares, tested, strict=True)]
    return trained, tested


def _by_size(sizes: Indices, rng: np.random.Generator) -> list[Indices]:
    order = rng.permutation(int(sizes.sum()))
    return [np.sort(part) for part in np.split(order, np.cumsum(sizes)[:-1])]


def _by_class(labels: Indices, shares: Indices, rng: np.random.Generator) -> list[Indices]:
    """Random samples of each class, `shares` [M, C] of them for each device."""
    parts: list[list[Indices]] = [[] for _ in shares]
    for column, label in enumerate(np.unique(labels)):
        order = rng.permutation(np.flatnonzero(labels == label))
        for part, piece in zip(parts, np.split(order, np.cumsum(shares[:-1, column])), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def _draw(
    shares: Callable[[], Indices], least: int, draws: int = DRAWS
) -> tuple[Indices | None, int]:
    """The first draw whose smallest device holds `least`, and the best minimum seen."""
    best = 0
    for _ in range(draws):
        drawn = shares()
        best = max(best, int(drawn.sum(axis=1).min()))
        if best >= least:
            return drawn, best
    return None, best


def _dirichlet(counts: Indices, alpha: float, devices: int, rng: np.random.Generator) -> Indices:
    """How many samples of each class each device gets, [M, C].

    Each class's borders are rounded with an offset of its own: plain rounding down would favour
    the same devices in every class, and leave some empty at any alpha when classes are small.
    """
    proportions = rng.dirichlet(np.full(devices, alpha), size=len(counts))
    borders = np.cumsum(proportions, axis=1) * counts[:, None]
    borders[:, -1] = counts
    whole: Indices = np.floor(borders + rng.random((len(counts), 1))).astype(np.int64)
    return np.diff(whole, axis=1, prepend=0).T


def _labels(counts: Indices, per_device: int, devices: int, rng: np.random.Generator) -> Indices:
    """How many samples of each class each device gets, [M, C]: `per_device` classes in each row."""
    holders = _holders(counts, per_device, devices, rng)
    shares = np.zeros((devices, len(counts)), dtype=np.int64)
    left = holders.copy()
    for device in rng.permutation(devices):
        # Each device takes the classes with the most places left, which always fills all places;
        # ties are broken at random.
        chosen = np.lexsort((rng.random(len(counts)), -left))[:per_device]
        shares[device, chosen] = 1
        left[chosen] -= 1
    for column, count in enumerate(counts):
        owners = rng.permutation(np.flatnonzero(shares[:, column]))
        shares[owners, column] = largest_remainder(np.ones(len(owners)), int(count))
    return shares


def _holders(counts: Indices, per_device: int, devices: int, rng: np.random.Generator) -> Indices:
    """How many devices hold each class [C]: at most as many as it has samples, or all devices."""
    limit = np.minimum(counts, devices)
    holders = np.zeros_like(counts)
    places = devices * per_device
    while places:
        turn = rng.permutation(np.flatnonzero(holders < limit))[:places]
        holders[turn] += 1
        places -= len(turn)
    return holders


def _check_labels(counts: Indices, per_device: int, devices: int) -> None:
    classes = len(counts)
    name = f"data.partition.labels_per_device={per_device}"
    if not 1 <= per_device <= classes:
        raise DataError(f"{name} does not fit data of {classes} classes: take 1 to {classes}")
    if devices * per_device < classes:
        raise DataError(
            f"{name} with devices.count={devices} leaves some of the {classes} classes out: "
            f"take labels_per_device={-(-classes // devices)} or "
            f"devices.count={-(-classes // per_device)}"
        )
    places = int(np.minimum(counts, devices).sum())
    if places < devices * per_device:
        raise DataError(
            f"{name} with devices.count={devices} needs a sample for each of the "
            f"{devices * per_device} labels held and the classes allow {places}: "
            "take fewer devices or labels_per_device"
        )


def _refusal(counts: Indices, partition: Partition, devices: int, seed: int, best: int) -> str:
    """Why a Dirichlet division was given up, and values that were tried and work."""
    least = partition.min_samples

    def works(alpha: float, number: int) -> bool:
        rng = numpy_rng(seed, "partition", partition.kind)
        return _draw(lambda: _dirichlet(counts, alpha, number, rng), least)[0] is not None

    remedies = []
    milder = [float(f"{partition.alpha * factor:.2g}") for factor in (2, 4)]
    milder += [alpha for alpha in (0.1, 0.3, 1.0, 3.0, 10.0, 100.0) if alpha > milder[-1]]
    if alpha := next((alpha for alpha in milder if works(alpha, devices)), None):
        remedies.append(f"data.partition.alpha={alpha:g}")
    if best >= 1:
        remedies.append(f"data.partition.min_samples={best}")
    fewer = [devices * quarter // 4 for quarter in (3, 2, 1)]
    if number := next((m for m in fewer if m and works(partition.alpha, m)), None):
        remedies.append(f"devices.count={number}")
    return (
        f"data.partition.min_samples={partition.min_samples} does not hold with "
        f"devices.count={devices} and data.partition.alpha={partition.alpha:g} in {DRAWS} draws: "
        "take " + (" or ".join(remedies) or "fewer devices and a larger data.partition.alpha")
    )
