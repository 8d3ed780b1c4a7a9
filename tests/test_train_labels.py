"""What devices share of their labels, and what a round is found to miss."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data.label_counts import LabelCounts
from cutlayer.train.label_sharing import SharedLabels, histogram

COUNTS = np.array([[10, 0, 0], [0, 10, 0], [0, 0, 20]])


def held(counts: npt.ArrayLike) -> LabelCounts:
    """The counts of devices whose samples lie one after another."""
    table = np.asarray(counts)
    labels = np.concatenate([np.repeat(np.arange(len(row)), row) for row in table])
    ends = np.cumsum(table.sum(axis=1))
    return LabelCounts(labels, np.split(np.arange(len(labels)), ends[:-1]), table.shape[1])


HELD = held(COUNTS)


def test_without_epsilon_histograms_are_the_counts() -> None:
    assert (SharedLabels(HELD).of([2, 0]) == COUNTS[[2, 0]]).all()


def test_noise_is_laplace_of_one_over_epsilon_and_clipped_at_0() -> None:
    many = histogram(np.full(100_000, 1000), 0.5, seed=3, device=0) - 1000
    assert np.abs(many).mean() == pytest.approx(2, rel=0.02)  # the mean size is the scale
    assert many.mean() == pytest.approx(0, abs=0.03)
    assert (np.abs(many) > 2 * np.log(10)).mean() == pytest.approx(0.1, abs=0.005)
    none = histogram(np.zeros(1000), 0.5, seed=3, device=0)
    assert none.min() == 0
    assert (none > 0).mean() == pytest.approx(0.5, abs=0.06)


def test_a_devices_noise_is_its_own_whoever_else_shares() -> None:
    alone = histogram(COUNTS[1], 1.0, seed=7, device=1)
    assert (SharedLabels(HELD, 1.0, seed=7).of([2, 1])[1] == alone).all()
    assert (histogram(COUNTS[1], 1.0, seed=8, device=1) != alone).any()
    assert (histogram(COUNTS[1], 1.0, seed=7, device=2) != alone).any()


def test_a_round_misses_what_the_fleet_holds_and_its_devices_do_not() -> None:
    labels = SharedLabels(HELD)
    # The fleet: 1/4, 1/4, 1/2. Devices 0 and 2: 1/3, 0, 2/3.
    assert labels.wanted([0, 2], "missing").tolist() == [0, 1, 0]
    assert labels.wanted([0], "missing").tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    assert labels.wanted([0], "whole").tolist() == [0.25, 0.25, 0.5]
    assert labels.wanted([0, 1, 2], "missing").tolist() == [0.25, 0.25, 0.5]


@given(
    counts=st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=3, max_size=6),
    amount=st.integers(1, 200),
    kind=st.sampled_from(["missing", "whole"]),
)
def test_images_by_class_are_all_there_are_and_in_proportion(
    counts: list[list[int]], amount: int, kind: str
) -> None:
    labels = SharedLabels(held(counts))
    images = labels.by_class([0, 1], kind, amount)  # type: ignore[arg-type]
    exact = amount * labels.wanted([0, 1], kind)  # type: ignore[arg-type]
    assert images.sum() == amount
    assert (np.abs(images - exact) < 1).all()
