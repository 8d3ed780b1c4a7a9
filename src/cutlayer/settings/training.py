"""The training section of a job: how long and how fast."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.section import Count, Section


class Training(Section):
    """How long and how fast to train.

    batch_size: samples of one device in one step.
    pool: devices whose batches are computed in one pass through the backbone; it changes speed
    and memory, not the result (beyond float rounding).
    keep_states: rounds whose state stays in the run folder, the last one included: where the newest
    is damaged or ruined, a run goes on from the one before.
    evaluate_every: rounds between evaluations of the aggregated model; the last is always one.
    """

    rounds: Count = 5
    local_epochs: Count = 1
    batch_size: Annotated[int, Field(ge=1, le=2**20)] = 16
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    pool: Count = 4
    keep_states: Annotated[int, Field(ge=1, le=10_000)] = 3
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
