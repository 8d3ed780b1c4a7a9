"""The training section of a job: how long and how fast."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.compute import Compute, Precision
from cutlayer.settings.section import Count, Positive, Section


class Training(Section):
    """How long and how fast to train."""

    rounds: Count = 5
    """Rounds: each begins from one global adapter and ends with the next."""

    local_epochs: Count = 1
    """How often a device goes through its samples in one round."""

    batch_size: Annotated[int, Field(ge=1, le=2**20)] = 16
    """Samples of one device in one step."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or stochastic gradient descent; its state is new in each round."""

    lr: Positive = 1e-3
    """Learning rate; where there is a schedule or a warm-up, the largest."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of sgd."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of the optimiser."""

    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """The learning rate over the job's steps: constant, or falling to zero at the job's end along
    half a cosine or a straight line.
    """

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of a device, from the job's start, in which the learning rate rises to lr."""

    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the job's steps in which the learning rate rises to lr: 0.1 for the first tenth."""

    clip_gradient_norm: Positive | None = None
    """Largest L2 norm of a step's gradient: a larger gradient is scaled down to it, on the device
    and on the server each for its own part. null: no bound.
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each sample's target that is spread evenly over all classes."""

    loss_on: Literal["answers", "all"] = "answers"
    """Of language models, which tokens they learn to say: answers (completions, and what the
    assistant says), or all (prompts too).
    """

    class_weights: tuple[Positive, ...] = ()
    """What a sample counts in the loss by its class: one number a class, in the order of the
    classes. Empty: all alike.
    """

    proximal: Annotated[float, Field(ge=0)] = 0.0
    """FedProx's mu (arXiv 1812.06127): adds mu times the change since the round's start to each
    gradient, which pulls the adapter back towards that start.
    """

    server_optimizer: Literal["average", "momentum", "adam"] = "average"
    """What the server does with the average of a round: takes it as it is, or moves by the change
    that it makes, with momentum (FedAvgM, arXiv 1909.06335) or adam (FedAdam, arXiv 2003.00295).
    """

    server_lr: Positive | None = None
    """Learning rate of the server's momentum or adam. null: 1 with momentum, 0.01 with adam."""

    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share that the server's momentum or adam keeps of earlier changes."""

    server_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Share that the server's adam keeps of the mean squared change."""

    server_epsilon: Positive = 1e-3
    """What the server's adam adds to the root of the mean squared change (tau in the paper)."""

    clip_update_norm: Positive | None = None
    """Largest L2 norm of what a device changes in one round: a larger change is scaled down to it,
    by the device before it sends and by the server before it averages. null: no bound.
    """

    image_augmentation: tuple[Literal["flip", "crop", "randaugment"], ...] = ()
    """Random changes of each training image, in this order: flip (left and right, half of the
    time), crop (shifted by up to an eighth of its side), randaugment (two changes of colour or
    geometry).
    """

    pool: Count | None = None
    """Devices whose batches the server computes in one pass; null: 4, or on a GPU of CUDA as many
    as its memory holds. It changes speed and memory, not the result (beyond rounding).
    """

    keep_states: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Rounds whose state stays in the run folder, the last one included. Where the newest is
    damaged, a run goes on from the one before.
    """

    evaluate_every: Count = 1
    """Rounds from one evaluation of the global adapter to the next; the last round has one too."""

    patience: Count | None = None
    """Rounds without a higher test accuracy after which the run ends before its last round, with
    the adapter that it then has; counted from the best so far. null: all rounds are run.
    """

    evaluate_absent: bool = False
    """Where each device keeps an adapter of its own: whether those that never took part are tested
    too, with the adapter that they would begin with. It lowers the mean that such methods report.
    """

    compute: Compute = "auto"
    """What computes: cpu, cuda (a GPU), cuda:N (the GPU with that number, from 0), mps (Apple's
    GPU), or auto: a GPU of CUDA where there is one, else the CPU.
    """

    precision: Precision = "float32"
    """Numbers that matrices are multiplied in: float32; tf32 (float32 cut to 10 bits, on NVIDIA's
    GPUs from Ampere on); or bfloat16 (8 bits, where the hardware has it). Adapters and optimisers
    stay in float32.
    """

    packing: bool = False
    """Whether texts of a language model's batch are put behind one another in rows, as many as fit,
    so that devices and server compute less padding. Results stay the same.
    """

    checkpointing: bool = False
    """Whether blocks keep their input alone for the backward pass and are computed again in it:
    less memory for up to a third more computing, on devices and server. Results stay the same.
    """

    compile: bool = False
    """Compile the training step after the cut, or of the whole model where nothing is split, by
    torch.compile; on a GPU of CUDA it becomes a CUDA graph. It costs a minute or so for each of the
    first sizes of batches and changes speed, not the result (beyond rounding).
    """

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
