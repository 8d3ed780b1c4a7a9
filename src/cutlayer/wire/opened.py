"""Opens and checks received frames one by one, then decodes those of many devices in one call.

The sizes in a header are checked, against limits and against the body, before memory is allocated.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.wire import frame
from cutlayer.wire.body_parts import check_room, take_labels, take_mask, take_token_labels
from cutlayer.wire.codecs.quantized import decode_quantized_all
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.dequantize import CPU
from cutlayer.wire.frame import DEFAULT_MAX_BYTES, Bytes
from cutlayer.wire.headers import (
    ActivationsHeader,
    CodedActivationsHeader,
    CodedGradientHeader,
    GradientHeader,
)
from cutlayer.wire.known_tokens import known_tokens
from cutlayer.wire.messages import ActivationsMessage, GradientMessage
from cutlayer.wire.places import Places, find_places, unpack_kept
from cutlayer.wire.transfer import to_device, wire_device


@dataclass(frozen=True, eq=False)
class Opened:
    """A frame that was read and checked up to its hidden states or gradient, which stay packed.

    labels: of activations, as in `ActivationsMessage`. valid: [B T], False at padding; None
    without a mask. change: whether they are what changed of a sample's activations.
    """

    header: ActivationsHeader | CodedActivationsHeader | GradientHeader | CodedGradientHeader
    body: memoryview
    valid: NDArray[np.bool_] | None
    labels: Tensor | None = None
    places: Places | None = None
    change: bool = False

    @property
    def due(self) -> tuple[int, int, int]:
        """The device, round and step that its header names."""
        return self.header.device, self.header.round, self.header.step


def open_activations(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Opened:
    """A frame of activations, checked; limits and errors as in `decode_activations`."""
    header: ActivationsHeader | CodedActivationsHeader
    kind = frame.kind_of(data)
    if kind in ("coded activations", "coded token activations", "coded change"):
        header, body = frame.unpack(data, kind, CodedActivationsHeader, max_bytes)
    else:
        due = kind if kind in ("token activations", "change") else "activations"
        header, body = frame.unpack(data, due, ActivationsHeader, max_bytes)
    B, T, _ = header.shape
    places = None
    if kind.endswith("token activations"):
        valid, body = take_mask(header.shape, header.masked, body, max_bytes)
        labels, body = take_token_labels(header.shape, valid, body, header.num_classes, max_bytes)
    else:
        labels, body = take_labels(body, B, header.num_classes, max_bytes)
        valid, body = take_mask(header.shape, header.masked, body, max_bytes)
    if isinstance(header, CodedActivationsHeader):
        if header.candidates:
            check_room(8 * B * header.candidates, max_bytes)
            places, body = unpack_kept(body, B, T, header.candidates, header.merged)
        elif header.merged:
            raise FrameError("the frame merges tokens but keeps all of them: have it sent again")
    return Opened(header, body, valid, labels, places, kind.endswith("change"))


def activations_of(
    frames: Sequence[Opened], codec: Codec | None = None, device: torch.device = CPU
) -> list[ActivationsMessage | FrameError]:
    """The messages of frames of activations, decoded in one call, or the error of a faulty one.

    Their hidden states are on `device`, as views of one tensor if the frames have equal settings.
    """
    found: list[ActivationsMessage | FrameError] = []
    for one, hidden in zip(frames, _decode(frames, codec, device), strict=True):
        assert isinstance(one.header, ActivationsHeader | CodedActivationsHeader)
        assert one.labels is not None
        if isinstance(hidden, FrameError):
            found.append(hidden)
            continue
        classes = one.header.num_classes
        mask = _mask_of(one)
        found.append(ActivationsMessage(*one.due, hidden, mask, one.labels, classes, one.places))
    return found


def open_gradient(data: Bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Opened:
    """A frame of gradients, checked; limits and errors as in `decode_activations`."""
    header: GradientHeader | CodedGradientHeader
    if frame.kind_of(data) == "coded gradient":
        header, body = frame.unpack(data, "coded gradient", CodedGradientHeader, max_bytes)
    else:
        header, body = frame.unpack(data, "gradient", GradientHeader, max_bytes)
    valid, body = take_mask(header.shape, header.masked, body, max_bytes)
    return Opened(header, body, valid)


def gradients_of(
    frames: Sequence[Opened], codec: Codec | None = None, device: torch.device = CPU
) -> list[GradientMessage | FrameError]:
    """The messages of frames of gradients; see `activations_of`."""
    found: list[GradientMessage | FrameError] = []
    for one, gradient in zip(frames, _decode(frames, codec, device), strict=True):
        assert isinstance(one.header, GradientHeader | CodedGradientHeader)
        if isinstance(gradient, FrameError):
            found.append(gradient)
        else:
            found.append(GradientMessage(*one.due, gradient, one.header.loss, _mask_of(one)))
    return found


def _decode(
    frames: Sequence[Opened], codec: Codec | None, device: torch.device
) -> list[Tensor | FrameError]:
    """The tensors [B, T, D] of frames on `device`, with zeros at padding."""
    here = wire_device(device)
    plain: dict[int, list[int]] = defaultdict(list)
    rows: dict[int, Tensor | FrameError] = {}
    for place, one in enumerate(frames):
        if isinstance(one.header, ActivationsHeader | GradientHeader):
            plain[one.header.shape[2]].append(place)
        else:
            rows[place] = _decode_fitted(one, codec, here)
    for width, places in plain.items():
        decoded = decode_quantized_all(
            [frames[place].header.tensor for place in places],  # type: ignore[union-attr]
            [frames[place].body for place in places],
            [_count(frames[place]) for place in places],
            width,
            here,
        )
        rows |= dict(zip(places, decoded, strict=True))
    found: list[Tensor | FrameError] = []
    for place, one in enumerate(frames):
        B, T, D = one.header.shape
        sent = rows[place]
        if isinstance(sent, FrameError):
            found.append(sent)
            continue
        if one.valid is not None:
            index = to_device(torch.from_numpy(np.flatnonzero(one.valid)), here)
            sent = torch.zeros(B * T, D, device=here).index_copy_(0, index, sent)
        found.append(sent.view(B, T, D).to(device))
    return found


def _count(one: Opened) -> int:
    """The rows in a frame's body."""
    B, T, _ = one.header.shape
    return B * T if one.valid is None else int(one.valid.sum())


def _decode_fitted(one: Opened, codec: Codec | None, device: torch.device) -> Tensor | FrameError:
    """The rows of a frame that a fitted codec encoded."""
    header = one.header
    assert isinstance(header, CodedActivationsHeader | CodedGradientHeader)
    D = header.shape[2]
    if codec is None or not codec.positional:
        return FrameError(
            f"the frame needs version {header.coding.version} of a basis, but none was received: "
            "send the basis first"
        )
    try:
        positions = _where(one, codec)
        if one.valid is not None:
            positions = positions[torch.from_numpy(one.valid)]
        return to_device(codec.decode(header.coding, one.body, positions, D), device)
    except FrameError as fault:
        return fault


def _where(one: Opened, codec: Codec) -> Tensor:
    """What the codec has to know of each token [B T]: its position, or its class."""
    B, T, _ = one.header.shape
    if not codec.token_classes:
        # This allocates less than the hidden states take.
        return find_places(torch.empty(B, T, 0), one.places).reshape(-1)
    if not isinstance(one.header, CodedActivationsHeader) or one.labels is None:
        raise FrameError(
            "the frame's basis is for known tokens, but it is one of gradients, without labels: "
            "run the same job on both sides"
        )
    if one.labels.dim() != 2:
        raise FrameError(
            "the frame's basis is for known tokens, but its labels are those of whole samples: "
            "run the same job on both sides"
        )
    told = one.header.num_classes
    return known_tokens(one.labels, _mask_of(one), told, codec.token_classes).reshape(-1)


def _mask_of(one: Opened) -> Tensor | None:
    B, T, _ = one.header.shape
    return None if one.valid is None else torch.from_numpy(one.valid).view(B, T)
