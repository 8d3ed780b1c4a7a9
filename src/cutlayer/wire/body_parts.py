"""Reads the labels and the mask of padding, which stand as bits before a body's hidden states.

packing.py writes them.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.wire.packing import label_bits

Bits = NDArray[np.bool_]


def take_mask(
    shape: tuple[int, int, int], masked: bool, body: memoryview, max_bytes: int
) -> tuple[Bits | None, memoryview]:
    """Which of the B T tokens are in the body (None: all), and the body after the mask."""
    B, T, D = shape
    check_room(4 * B * T * D, max_bytes)
    if not masked:
        return None, body
    size = -(-B * T // 8)
    if size > len(body):
        raise _too_short()
    bits = np.unpackbits(np.frombuffer(body[:size], np.uint8), count=B * T, bitorder="little")
    return bits.view(np.bool_), body[size:]


def take_labels(
    body: memoryview, count: int, num_classes: int, max_bytes: int
) -> tuple[Tensor, memoryview]:
    """The first `count` labels of a body, and the body after them."""
    size = -(-count * label_bits(num_classes) // 8)
    if size > len(body):
        raise _too_short()
    check_room(count * (8 + label_bits(num_classes)), max_bytes)
    return _unpack_labels(body[:size], count, num_classes), body[size:]


def take_token_labels(
    shape: tuple[int, int, int],
    valid: Bits | None,
    body: memoryview,
    num_classes: int,
    max_bytes: int,
) -> tuple[Tensor, memoryview]:
    """The label of each token [B, T], 0 for padding, and the body after them."""
    B, T, _ = shape
    count = B * T if valid is None else int(valid.sum())
    sent, body = take_labels(body, count, num_classes, max_bytes)
    if valid is None:
        return sent.view(B, T), body
    labels = torch.zeros(B * T, dtype=torch.int64)
    labels[torch.from_numpy(valid)] = sent
    return labels.view(B, T), body


def check_room(needed: int, max_bytes: int) -> None:
    """Raise FrameError for a frame that unpacks to more than max_bytes."""
    if needed > max_bytes:
        raise FrameError(
            f"the frame unpacks to {needed} bytes, above max_bytes {max_bytes}: raise it, or send "
            "smaller batches"
        )


def _too_short() -> FrameError:
    return FrameError("the frame's body is shorter than its header declares: have it sent again")


def _unpack_labels(data: memoryview, count: int, num_classes: int) -> Tensor:
    width = label_bits(num_classes)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width, bitorder="little")
    labels = np.zeros(count, np.int64)
    for place, column in enumerate(bits.reshape(count, width).T):
        labels |= column.astype(np.int64) << place
    if (labels >= num_classes).any():
        raise FrameError(
            f"the frame holds label {labels.max()}, but declares {num_classes} classes: have it "
            "sent again"
        )
    return torch.from_numpy(labels)
