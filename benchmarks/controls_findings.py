"""The sentences of the report on controls, computed from the accuracies of its lines."""

from collections.abc import Iterator, Mapping
from statistics import mean

from cutlayer.reports.views.statistics import paired_interval

BySeed = Mapping[int, float]

PAIRS = (
    (
        "Generated images added to the devices",
        "devices and generated images",
        "devices alone",
    ),
    (
        "Devices added to generated images, which alone are trained on in every round",
        "devices and generated images",
        "generated images alone",
    ),
    (
        "Devices added to generated images, which alone are seen once, as beside devices",
        "devices and generated images",
        "generated images alone, seen once",
    ),
    (
        "Real public images in the place of generated ones, beside devices",
        "devices and real public images",
        "devices and generated images",
    ),
    (
        "Real public images against generated ones, both alone",
        "real public images alone",
        "generated images alone",
    ),
    (
        "The devices' images in one place against the devices",
        "devices' images in one place",
        "devices alone",
    ),
    (
        "Devices' and generated images in one place against devices with generated images",
        "devices' and generated images in one place",
        "devices and generated images",
    ),
)
"""What is told of two lines: the first one's accuracy less the second's."""


def findings(found: Mapping[str, BySeed]) -> Iterator[str]:
    """What the lines say, in points, mean over seeds, with where it lies with 95 % confidence."""
    for said, line, other in PAIRS:
        if line in found and other in found:
            yield f"{said}: {_apart(found[line], found[other])}."
    alone = {name: mean(found[name].values()) for name in found if "alone" in name}
    with_devices = mean(found["devices and generated images"].values())
    best = max(alone, key=lambda name: alone[name])
    side = "above" if with_devices > alone[best] else "not above"
    yield (
        f"Devices with generated images end at {100 * with_devices:.1f} %, {side} the best that "
        f"one kind of images gives alone ({best}: {100 * alone[best]:.1f} %)."
    )


def _apart(ones: BySeed, others: BySeed) -> str:
    interval = paired_interval(ones, others)
    assert interval is not None
    middle, low, high = (100 * value for value in interval)
    told = "told from 0" if low > 0 or high < 0 else "not told from 0"
    return f"{middle:+.1f} points (95 %: {low:.1f} to {high:.1f}, {told})"
