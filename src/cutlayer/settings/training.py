"""The training section of a job: how long and how fast."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.section import Count, Section


class Training(Section):
    """How long and how fast to train."""

    rounds: Count = 5
    """Rounds: each begins from one global adapter and ends with the next."""

    local_epochs: Count = 1
    """How often a device goes through its samples in one round."""

    batch_size: Count = 16
    """Samples of one device in one step."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or stochastic gradient descent; its state is new in each round."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of sgd."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of the optimiser."""

    pool: Count = 4
    """Devices whose batches the server computes in one pass. It changes speed and memory, not the
    result (beyond rounding).
    """

    evaluate_every: Count = 1
    """Rounds from one evaluation of the global adapter to the next; the last round has one too."""

    compute: Literal["auto", "cpu", "cuda"] = "auto"
    """What computes: cpu, cuda (a GPU), or auto: a GPU where there is one."""

    @model_validator(mode="after")
    def _momentum_has_sgd(self) -> Self:
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum is {self.momentum} with optimizer {self.optimizer!r}: "
                "take optimizer sgd, or leave momentum at 0"
            )
        return self
