"""The devices section of a job: how many there are, and how many take part in a round."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.section import Count, Section


class Devices(Section):
    """The fleet: how many devices there are and how many take part in a round."""

    count: Annotated[int, Field(ge=1, le=2**20)] = 10
    """Devices in all."""

    per_round: Count | None = None
    """Devices drawn for each round; null: all of them."""

    participation: Literal["fixed", "poisson"] = "fixed"
    """fixed: exactly `per_round` devices take part in each round; poisson: a random number with
    that mean, at least one (ST-SFLora, arXiv 2605.26120).
    """

    drop_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Chance that a device is lost in a round that it began, at a step drawn at random: what it
    trained in that round does not count. Only in simulations.
    """

    @model_validator(mode="after")
    def _cohort_fits(self) -> Self:
        if self.per_round is not None and self.per_round > self.count:
            raise ValueError(
                f"per_round is {self.per_round} but there are {self.count} devices: "
                f"take per_round up to {self.count} or raise devices.count"
            )
        return self

    @property
    def cohort(self) -> int:
        """Devices in a round; the mean number where it is drawn."""
        return self.per_round or self.count
