"""The training section of a job: how long and how fast."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.section import Count, Section


class Training(Section):
    """How long and how fast to train.

    batch_size: samples of one device in one step.
    pool: devices whose batches are computed in one pass through the backbone; it changes speed
    and memory, not the result (beyond float rounding).
    evaluate_every: rounds between evaluations of the aggregated model; the last is always one.
    """

    rounds: Count = 5
    local_epochs: Count = 1
    batch_size: Count = 16
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    pool: Count = 4
    evaluate_every: Count = 1
    compute: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _momentum_has_sgd(self) -> Self:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum is {self.momentum} with optimizer {self.optimizer!r}: "
                "take optimizer sgd, or leave momentum at 0"
            )
        return self
