"""The trust section of a job: what bounds the share that one device has in what all devices get."""

from typing import Annotated, Literal

from pydantic import Field

from cutlayer.settings.section import Positive, Section


class Trust(Section):
    """What bounds the share that one device has in what all devices get."""

    average: Literal["mean", "median", "trimmed-mean", "krum"] = "mean"
    """How the adapters of a round become one: their mean by samples, or, with all devices alike,
    the median of each number, its mean without the `hostile` largest and smallest values
    (trimmed-mean), or the one adapter that is nearest to its neighbours (krum).
    """

    hostile: Annotated[int, Field(ge=1, le=2**20)] = 1
    """Devices of a round that may send anything at all: trimmed-mean needs more than twice as many
    devices in a round, krum at least three beyond twice as many.
    """

    clip_to_median: Annotated[float, Field(ge=1)] | None = None
    """How many times the median L2 norm of its round's updates an update may have: the server
    scales a larger one down to it. null: no bound.
    """

    clip_activations: Positive | None = None
    """Largest L2 norm of one token's activations that the server trains on: a longer token is
    scaled down to it. null: no bound.
    """
