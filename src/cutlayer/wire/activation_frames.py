"""Makes frames of activations that a codec has encoded, in numpy alone, so for all devices.

`codec` describes the layout. Its messages hold tensors; here are arrays, for devices without torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cutlayer.wire import frame
from cutlayer.wire.codecs.seam import Coded
from cutlayer.wire.headers import (
    ActivationsHeader,
    CodedActivationsHeader,
    KltHeader,
    TensorHeader,
)
from cutlayer.wire.kept_tokens import Indices, kept_bits
from cutlayer.wire.packing import pack_flags, pack_labels


@dataclass(frozen=True, eq=False)
class Batch:
    """What a frame of activations holds besides the activations themselves.

    device, round, step: whose batch it is. shape: [B, T, D]. mask: of all B T tokens, False at
    padding, or None. labels: one for each sample [B], or, if `by_token`, for each token that is
    sent [n]. kept: [B, K], the indices of the tokens kept of `candidates`, or None if all are sent;
    merged: whether the last token stands for the others. Raises ValueError for a label that is not
    below num_classes.
    """

    device: int
    round: int
    step: int
    shape: tuple[int, int, int]
    mask: NDArray[np.bool_] | None
    labels: Indices
    num_classes: int
    by_token: bool = False
    kept: Indices | None = None
    candidates: int = 0
    merged: bool = False

    def __post_init__(self) -> None:
        labels = self.labels
        if ((labels < 0) | (labels >= self.num_classes)).any():
            raise ValueError(f"labels must be integers from 0 to num_classes - 1, not {labels}")


def activations_frame(batch: Batch, coded: Coded) -> bytes:
    """The frame of a batch whose activations a codec has encoded."""
    classes = batch.num_classes
    packed = pack_labels(batch.labels, classes)
    mask = b"" if batch.mask is None else pack_flags(batch.mask)
    head = mask + packed if batch.by_token else packed + mask
    kind = "token activations" if batch.by_token else "activations"
    start = (batch.device, batch.round, batch.step, batch.shape, batch.mask is not None)
    if isinstance(coded.header, KltHeader):
        candidates, merged = 0, False
        if batch.kept is not None:
            candidates, merged = batch.candidates, batch.merged
            head += kept_bits(batch.kept, candidates)
        header = CodedActivationsHeader(*start, candidates, merged, coded.header, classes)
        return frame.pack(f"coded {kind}", header, head + coded.body)
    assert isinstance(coded.header, TensorHeader)
    plain = ActivationsHeader(*start, coded.header, classes)
    return frame.pack(kind, plain, head + coded.body)
