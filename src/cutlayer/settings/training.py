"""The training section of a job: how long and how fast."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.section import Count, Section

Positive = Annotated[float, Field(gt=0)]


class Training(Section):
    """How long and how fast to train.

    rounds: rounds of the job; each draws its devices and ends with an average of what they trained.
    local_epochs: times that a device goes through its samples in one round.
    batch_size: samples of one device in one step.
    optimizer: what moves the adapters in each step: AdamW, or stochastic gradient descent.
    lr: the largest learning rate, which the schedule starts from.
    momentum: of stochastic gradient descent, 0 for none; devices and server begin each round anew.
    weight_decay: of the optimiser, decoupled from the gradient with adamw.
    schedule: the learning rate over the job's steps: constant, or falling to zero at the job's end
    along a half cosine or a straight line.
    warmup_steps: steps of a device at the job's start in which the rate rises to lr in a line.
    warmup_share: the same as a share of the job's steps, 0.1 for the first tenth.
    clip_gradient_norm: the largest L2 norm of a step's gradient; a larger one is scaled down to it.
    Device part and server part are measured apart. None: no bound.
    label_smoothing: share of the target that is spread evenly over all classes.
    class_weights: what the loss of a sample counts by its class, one number a class in the order
    of the classes; empty: all alike.
    proximal: FedProx's mu (arXiv 1812.06127): pulls every adapter in training towards the one it
    began the round with, by mu times the difference; 0 for none.
    server_optimizer: what the server does with the average of a round: takes it; or takes the
    change that it makes for a gradient, with momentum (FedAvgM, arXiv 1909.06335) or by adam
    (FedAdam, arXiv 2003.00295).
    server_lr: the server's learning rate; None: 1 with momentum, 0.01 with adam.
    server_momentum: share of the last change that is kept (beta 1 of adam).
    server_beta2: share of the mean squared change that adam keeps.
    server_epsilon: what adam adds to the root of that mean (the paper's tau).
    clip_update_norm: the largest L2 norm of what one device may change in a round; a larger change
    is scaled down to it, on the device and again on the server. None: no bound.
    image_augmentation: changes each image anew whenever it is trained on: flip (left and right,
    half of the time), crop (shifted by up to an eighth of its side), randaugment (two random
    changes of colour or geometry), any of them in this order.
    pool: devices whose batches are computed in one pass through the backbone; it changes speed
    and memory, not the result (beyond float rounding).
    evaluate_every: rounds between evaluations of the aggregated model; the last is always one.
    compute: where this machine computes: a GPU where there is one (auto), cpu, or cuda.
    """

    rounds: Count = 5
    local_epochs: Count = 1
    batch_size: Count = 16
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_gradient_norm: Positive | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: tuple[Positive, ...] = ()
    proximal: Annotated[float, Field(ge=0)] = 0.0
    server_optimizer: Literal["average", "momentum", "adam"] = "average"
    server_lr: Positive | None = None
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    server_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    server_epsilon: Positive = 1e-3
    clip_update_norm: Positive | None = None
    image_augmentation: tuple[Literal["flip", "crop", "randaugment"], ...] = ()
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

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps and self.warmup_share:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} and warmup_share {self.warmup_share}: give "
                "one of them"
            )
        return self

    @model_validator(mode="after")
    def _server_settings_have_an_optimizer(self) -> Self:
        needed = {
            "server_lr": ("momentum", "adam"),
            "server_momentum": ("momentum", "adam"),
            "server_beta2": ("adam",),
            "server_epsilon": ("adam",),
        }
        for name, kinds in needed.items():
            value = getattr(self, name)
            changed = value != type(self).model_fields[name].default
            if changed and self.server_optimizer not in kinds:
                raise ValueError(
                    f"{name} is {value} but server_optimizer {self.server_optimizer!r} does not "
                    f"use it: take {' or '.join(kinds)}, or leave it out"
                )
        return self
