"""The messages that cross the cut, and the frames they travel in: activations and gradients.

Bodies, in order (see `frame` for the envelope; all bit streams are little-endian):

    activations  labels, ceil(log2(num_classes)) bits each; mask, 1 bit a token, if there is one;
                 with a fitted codec, which tokens were kept, 1 bit a candidate, if not all were;
                 the hidden states
                 If each token has a label, the labels of the tokens sent stand behind the mask.
    gradient     mask, if there is one; the gradient
    adapter      the tensors, each in row-major order, in the header's order

Hidden states and gradients are rows of D values, which a codec encodes (see `codecs.seam`). Rows
that a mask marks as padding are not sent and arrive as zeros. The header of a quantised frame holds
every setting, so the two sides need not share any; the header of a fitted codec names the basis.
All sizes in a header are checked, against limits and against the body, before memory is allocated.

Messages of many devices are encoded, and decoded, in one call: their hidden states stay on the
torch device that computes, and are copied to the CPU or back once for all. Decoded labels, masks
and places are on the CPU.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.settings.method import Quantizer
from cutlayer.wire.activation_frames import Batch, activations_frame
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.codecs.seam import Codec, Rows
from cutlayer.wire.dequantize import CPU
from cutlayer.wire.frame import DEFAULT_MAX_BYTES, Bytes
from cutlayer.wire.headers import (
    CodedGradientHeader,
    GradientHeader,
    KltHeader,
    TensorHeader,
)
from cutlayer.wire.known_tokens import known_tokens
from cutlayer.wire.messages import ActivationsMessage, GradientMessage
from cutlayer.wire.opened import activations_of, gradients_of, open_activations, open_gradient
from cutlayer.wire.packing import pack_flags
from cutlayer.wire.places import Places, find_places, places_on_cpu
from cutlayer.wire.transfer import ToPack, as_sent, pack_all, side_by_side, to_device, to_host


def encode_activations(
    message: ActivationsMessage,
    quantizer: Quantizer,
    *,
    rng: torch.Generator | None = None,
    rotation_seed: int = 0,
) -> bytes:
    """One quantised frame with the batch's hidden states, mask and labels.

    message: what to encode. quantizer: how values become bits.
    rng: a CPU generator for stochastic rounding; rotation_seed: 0 to 2^63 - 1, sent along. Both
    are only used where the quantizer asks for them. Raises RunError for NaN or infinity.
    """
    codec = QuantizedCodec(quantizer, rotation_seed)
    return encode_activations_with(codec, [message], None if rng is None else [rng])[0]


def encode_activations_with(
    codec: Codec,
    messages: Sequence[ActivationsMessage],
    rngs: Sequence[torch.Generator] | None = None,
) -> list[bytes]:
    """A frame for each of many devices' messages, encoded in one call; see `encode_activations`.

    The messages are of one width. rngs: a CPU generator a device, for codecs that round at random.
    """
    whats = [f"activations of device {m.device}, round {m.round}, step {m.step}," for m in messages]
    masks = _masks([message.mask for message in messages])
    places: list[Places | None] = [None] * len(messages)
    if codec.positional:
        places = places_on_cpu([message.places for message in messages])
    hidden = [message.hidden for message in messages]
    where = [_where(codec, *one) for one in zip(messages, masks, places, strict=True)]
    rows = _rows(hidden, masks, where, whats)
    batches = [_batch_of(*one) for one in zip(messages, masks, places, strict=True)]
    coded_rows = codec.encode(rows, rngs)
    frames = list(zip(batches, coded_rows, strict=True))
    return side_by_side(
        lambda one: activations_frame(*one), frames, sum(len(coded.body) for coded in coded_rows)
    )


def _batch_of(
    message: ActivationsMessage, valid: NDArray[np.bool_] | None, places: Places | None
) -> Batch:
    """All of a message but its activations; valid, places: its mask and places on the CPU."""
    return Batch(
        message.device,
        message.round,
        message.step,
        _shape3(message.hidden),
        valid,
        _sent_labels(message, valid),
        message.num_classes,
        message.labels.dim() == 2,
        None if places is None else places.kept.numpy(),
        0 if places is None else places.candidates,
        places is not None and places.merged,
    )


def decode_activations(
    data: Bytes,
    *,
    codec: Codec | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    device: torch.device = CPU,
) -> ActivationsMessage:
    """The message of a frame of activations, its hidden states on `device`.

    data: the frame. codec: the fitted codec with which frames may have been encoded. max_bytes:
    bounds the frame, and the hidden states it unpacks to as float32; decoding allocates a small
    multiple of it. Raises FrameError.
    """
    opened = open_activations(data, max_bytes=max_bytes)
    if opened.change:
        raise FrameError("a frame of what changed came where one of activations was due")
    return _only(activations_of([opened], codec, device))


def encode_gradient(
    message: GradientMessage,
    quantizer: Quantizer,
    *,
    rng: torch.Generator | None = None,
    rotation_seed: int = 0,
) -> bytes:
    """One quantised frame with the gradient and the loss; arguments as in `encode_activations`."""
    codec = QuantizedCodec(quantizer, rotation_seed)
    return encode_gradients_with(codec, [message], None if rng is None else [rng])[0]


def encode_gradients_with(
    codec: Codec,
    messages: Sequence[GradientMessage],
    rngs: Sequence[torch.Generator] | None = None,
) -> list[bytes]:
    """A frame for each of many devices' gradients, encoded in one call with one step size."""
    whats = [f"gradient for device {m.device}, round {m.round}, step {m.step}," for m in messages]
    masks = _masks([message.mask for message in messages])
    gradients = [message.gradient for message in messages]
    where = [find_places(one, None) if codec.positional else None for one in gradients]
    batch = _rows(gradients, masks, where, whats)
    frames: list[ToPack] = []
    for message, valid, coded in zip(messages, masks, codec.encode(batch, rngs), strict=True):
        start = (message.device, message.round, message.step, _shape3(message.gradient))
        masked, loss = message.mask is not None, float(message.loss)
        body = (b"" if valid is None else pack_flags(valid), coded.body)
        if isinstance(coded.header, KltHeader):
            coded_header = CodedGradientHeader(*start, masked, coded.header, loss)
            frames.append(("coded gradient", coded_header, body))
        else:
            assert isinstance(coded.header, TensorHeader)
            header = GradientHeader(*start, masked, coded.header, loss)
            frames.append(("gradient", header, body))
    return pack_all(frames)


def decode_gradient(
    data: Bytes,
    *,
    codec: Codec | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    device: torch.device = CPU,
) -> GradientMessage:
    """The message of a frame of gradients; limits and errors as in `decode_activations`."""
    return _only(gradients_of([open_gradient(data, max_bytes=max_bytes)], codec, device))


def _shape3(x: Tensor) -> tuple[int, int, int]:
    B, T, D = x.shape
    return B, T, D


def _masks(masks: Sequence[Tensor | None]) -> list[NDArray[np.bool_] | None]:
    """Masks [B T] on the CPU, copied there at once."""
    given = [mask.reshape(-1) for mask in masks if mask is not None]
    if not given:
        return [None] * len(masks)
    flat = iter(np.split(to_host(torch.cat(given)).numpy(), np.cumsum([len(m) for m in given])))
    return [None if mask is None else next(flat) for mask in masks]


def _where(
    codec: Codec,
    message: ActivationsMessage,
    valid: NDArray[np.bool_] | None,
    places: Places | None,
) -> Tensor | None:
    """What a codec has to know of each token [B, T]: its position, or its class.

    valid, places: the message's mask and places on the CPU.
    """
    if not codec.positional:
        return None
    if not codec.token_classes:
        return find_places(message.hidden, places)
    if message.labels.dim() != 2:
        raise ValueError("the basis is for known tokens, but the labels are not those of tokens")
    labels = message.labels.detach().to("cpu", torch.int64)
    mask = None if valid is None else torch.from_numpy(valid).view(labels.shape)
    return known_tokens(labels, mask, message.num_classes, codec.token_classes)


def _rows(
    tensors: Sequence[Tensor],
    masks: Sequence[NDArray[np.bool_] | None],
    where: Sequence[Tensor | None],
    whats: Sequence[str],
) -> list[Rows]:
    """The rows of tensors [B, T, D] that are sent; where: their positions [B, T], if any."""
    flat = [as_sent(tensor).reshape(-1, tensor.shape[-1]) for tensor in tensors]
    for tensor, valid in zip(tensors, masks, strict=True):
        if valid is not None and len(valid) != tensor.shape[0] * tensor.shape[1]:
            raise ValueError(f"a mask of {len(valid)} does not fit tensor {tuple(tensor.shape)}")
    if any(valid is not None for valid in masks):
        kept = [
            np.ones(len(rows), np.bool_) if valid is None else valid
            for rows, valid in zip(flat, masks, strict=True)
        ]
        index = torch.from_numpy(np.flatnonzero(np.concatenate(kept)))
        sent = torch.cat(flat).index_select(0, to_device(index, flat[0].device))
        flat = list(torch.split(sent, [int(valid.sum()) for valid in kept]))
    found = []
    for rows, valid, stand, what in zip(flat, masks, where, whats, strict=True):
        positions = torch.arange(0) if stand is None else stand.reshape(-1)
        if stand is not None and valid is not None:
            positions = positions[torch.from_numpy(valid)]
        found.append(Rows(rows, positions, what))
    return found


Message = TypeVar("Message")


def _only(found: Sequence[Message | FrameError]) -> Message:
    (one,) = found
    if isinstance(one, FrameError):
        raise one
    return one


def _sent_labels(message: ActivationsMessage, valid: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """The labels that are sent, one after another."""
    B, T, _ = message.hidden.shape
    held = message.labels.detach().to("cpu", torch.int64)
    if tuple(held.shape) not in ((B,), (B, T)):
        raise ValueError(f"labels must be {B} or {B} x {T} integers, not {tuple(held.shape)}")
    labels = held.reshape(-1).numpy()
    if held.dim() == 2 and valid is not None:
        labels = labels[valid]
    return labels
