"""Every sample goes to exactly one device, and what cannot be divided is refused."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.data.label_counts import LabelCounts
from cutlayer.data.partition import partition
from cutlayer.errors import DataError
from cutlayer.settings.data import Partition

BALANCED = np.repeat(np.arange(10), 200)


def label_counts(labels: np.ndarray, parts: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Samples by device and class."""
    return LabelCounts(labels, parts, classes).first(len(parts))


def draw_labels(classes: int, samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(classes))
    return rng.permutation(
        np.concatenate([np.arange(classes), rng.choice(classes, samples, p=weights)])
    )


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["iid", "dirichlet", "labels", "powerlaw"]),
    classes=st.integers(2, 8),
    samples=st.integers(0, 200),
    devices=st.integers(1, 20),
    least=st.integers(1, 5),
    alpha=st.sampled_from([0.05, 0.5, 5.0, 1e6]),
    per_device=st.integers(1, 4),
    exponent=st.floats(0.1, 3),
    seed=st.integers(0, 2**40),
)
def test_each_sample_is_on_one_device_and_the_minimum_holds_or_the_job_is_refused(
    kind, classes, samples, devices, least, alpha, per_device, exponent, seed
):
    labels = draw_labels(classes, samples, seed % 1000)
    wish = Partition(
        kind=kind,
        alpha=alpha,
        min_samples=least,
        labels_per_device=per_device,
        exponent=exponent,
    )
    try:
        parts = partition(labels, wish, devices, seed)
    except DataError:
        assert kind in ("dirichlet", "labels") or len(labels) < devices * least
        return
    assert len(parts) == devices
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert min(len(part) for part in parts) >= least
    for part in parts:
        assert part.dtype == np.int64
        assert np.array_equal(part, np.sort(part))
    if kind == "labels":
        held = (label_counts(labels, parts, classes) > 0).sum(axis=1)
        assert held.tolist() == [per_device] * devices
    if kind == "iid":
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "labels", "powerlaw"])
def test_a_division_belongs_to_its_seed(kind):
    wish = Partition(kind=kind)
    one, again, other = (partition(BALANCED, wish, 10, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_dirichlet_shares_have_the_variance_of_their_distribution():
    alpha, devices = 0.5, 5
    shares = np.concatenate(
        [
            label_counts(
                BALANCED,
                partition(BALANCED, Partition(alpha=alpha), devices, seed),
                10,
            )
            / 200
            for seed in range(60)
        ]
    )
    mean = 1 / devices
    assert shares.mean() == pytest.approx(mean)
    assert shares.var() == pytest.approx(mean * (1 - mean) / (devices * alpha + 1), rel=0.15)


def test_dirichlet_has_the_variance_of_flowers_partitioner():
    datasets = pytest.importorskip("datasets", reason="needs the extra cutlayer[datasets]")
    flower = pytest.importorskip("flwr_datasets.partitioner", reason="needs flwr-datasets")
    data = datasets.Dataset.from_dict({"label": BALANCED.tolist()})
    ours, theirs = [], []
    for seed in range(25):
        partitioner = flower.DirichletPartitioner(
            5, "label", alpha=0.3, min_partition_size=1, seed=seed
        )
        partitioner.dataset = data
        for device in range(5):
            held = partitioner.load_partition(device)["label"]
            theirs.append(np.bincount(list(held), minlength=10))
        parts = partition(BALANCED, Partition(alpha=0.3), 5, seed)
        ours.append(label_counts(BALANCED, parts, 10))
    assert np.concatenate(ours).std() == pytest.approx(np.stack(theirs).std(), rel=0.1)


def test_small_classes_do_not_starve_the_same_devices_at_a_large_alpha():
    labels = np.repeat(np.arange(10), 20)
    parts = partition(labels, Partition(alpha=1e6, min_samples=2), 50, 0)
    assert min(len(part) for part in parts) >= 2


def test_a_refused_dirichlet_division_names_values_that_do():
    wish = Partition(alpha=0.05, min_samples=60)
    with pytest.raises(DataError, match=r"min_samples=60 .*devices\.count=20 .*alpha=0\.05") as why:
        partition(BALANCED, wish, 20, 3)
    advice = str(why.value).split("take ")[1]
    alpha = float(re.search(r"alpha=([\d.]+)", advice)[1])
    assert partition(BALANCED, wish.model_copy(update={"alpha": alpha}), 20, 3)
    devices = re.search(r"devices\.count=(\d+)", advice)
    if devices:
        assert partition(BALANCED, wish, int(devices[1]), 3)
    least = re.search(r"min_samples=(\d+)", advice)
    if least:
        smaller = wish.model_copy(update={"min_samples": int(least[1])})
        assert partition(BALANCED, smaller, 20, 3)


def test_label_holders_are_spread_evenly():
    parts = partition(BALANCED, Partition(kind="labels", labels_per_device=2), 100, 0)
    counts = label_counts(BALANCED, parts, 10)
    assert (counts > 0).sum(axis=0).tolist() == [20] * 10
    assert set(counts.ravel()) == {0, 10}
    assert len({tuple(np.flatnonzero(row)) for row in counts}) > 20  # pairs are mixed


def test_powerlaw_sizes_fall_by_rank_and_ranks_are_shuffled():
    exponent, devices = 1.2, 20
    parts = partition(
        np.zeros(100_000, int), Partition(kind="powerlaw", exponent=exponent), devices, 0
    )
    sizes = np.array([len(part) for part in parts])
    falling = np.sort(sizes)[::-1]
    slope = np.polyfit(np.log(np.arange(1, devices + 1)), np.log(falling), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.01)
    assert not np.array_equal(sizes, falling)


@pytest.mark.parametrize(
    ("wish", "devices", "says"),
    [
        ({"kind": "labels", "labels_per_device": 11}, 10, r"labels_per_device=11 .*take 1 to 10"),
        ({"kind": "labels", "labels_per_device": 2}, 3, r"labels_per_device=4 or devices\.count=5"),
        ({"kind": "iid", "min_samples": 10}, 300, r"devices\.count=300 .*200 devices .*=6"),
        ({"kind": "iid"}, 2001, r"devices\.count=2001 .*at most 2000 devices"),
        ({"kind": "iid"}, 0, r"devices\.count=0 "),
        ({"kind": "dirichlet", "alpha": 1e-3}, 100, r"take data\.partition\.alpha="),
    ],
)
def test_impossible_divisions_are_refused_with_field_value_and_remedy(wish, devices, says):
    with pytest.raises(DataError, match=says):
        partition(BALANCED, Partition(**wish), devices, 0)


def test_more_label_places_than_samples_are_refused():
    with pytest.raises(DataError, match=r"labels_per_device=3 .*take fewer"):
        partition([0] * 10 + [1, 1] + [2], Partition(kind="labels", labels_per_device=3), 3, 0)
