"""The messages that cross the cut; codec.py makes frames of them, and messages of frames."""

from dataclasses import dataclass

from torch import Tensor

from cutlayer.wire.places import Places


@dataclass(frozen=True, eq=False)
class ActivationsMessage:
    """What a device sends up for one batch.

    device, round, step: whose batch it is. hidden: [B, T, D] float. mask: [B, T] bool, False at
    padding, or None. labels: int64 below num_classes, one for each sample [B] or for each token
    [B, T] (labels of padding are not sent and arrive as 0). num_classes: what bounds the labels,
    and so their bytes. places: which tokens of a sample were kept, None for all; only a fitted
    codec sends them.
    """

    device: int
    round: int
    step: int
    hidden: Tensor
    mask: Tensor | None
    labels: Tensor
    num_classes: int
    places: Places | None = None


@dataclass(frozen=True, eq=False)
class GradientMessage:
    """What the server sends back: the gradient [B, T, D] of the loss in the hidden states it got.

    loss: the batch's mean loss. mask: that of the activations; padding is not sent.
    """

    device: int
    round: int
    step: int
    gradient: Tensor
    loss: float
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class AdapterMessage:
    """The named tensors of an adapter, and the number of samples they were trained on."""

    device: int
    round: int
    samples: int
    tensors: dict[str, Tensor]
