"""Reads and writes the frames of a step on the server."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cutlayer.allocate.decision import Decision
from cutlayer.errors import FrameError, RunError
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.seeds import torch_rng
from cutlayer.wire.codec import encode_gradients_with
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.messages import ActivationsMessage, GradientMessage
from cutlayer.wire.opened import Opened, open_activations
from cutlayer.wire.visit import Visit, decode_visit


@dataclass(frozen=True)
class Part:
    """A frame of activations. frame: as it came now; None where it was held. sample: its number
    in the device's data, where it is of one alone."""

    opened: Opened
    frame: bytes | None
    sample: int | None = None


def check_activations(
    frame: bytes,
    due: tuple[int, int, int],
    decision: Decision,
    spec: ModelSpec,
    job: Job,
    most_bytes: int,
    single: bool = False,
) -> Opened:
    """A frame of activations that was checked, but not yet decoded.

    due: the device, round and step they must be of. most_bytes: the size of the largest frame
    that the job can need. single: the frame holds one sample. Raises FrameError for a frame of
    another device, round, step or shape.
    """
    opened = open_activations(frame, max_bytes=most_bytes)
    number, round, step = opened.due
    if opened.due != due:
        raise FrameError(
            f"frame: device {due[0]} sent activations of device {number}, round {round}, step "
            f"{step} instead of those of round {due[1]}, step {due[2]}: run the same cutlayer on "
            "both sides"
        )
    shape = opened.header.shape
    tokens = spec.tokens_at(decision.cut)
    if decision.tokens is not None and decision.tokens < tokens - spec.prefix:
        # One token may stand for all that were not kept.
        tokens = spec.prefix + decision.tokens + (job.method.tokens.rest == "merge")
    fits = (
        shape[0] <= (1 if single else job.training.batch_size)
        and (shape[1] <= tokens if spec.modality == "text" else shape[1] == tokens)
        and shape[2] == spec.width_at(decision.cut)
        and opened.header.masked == (spec.modality == "text")
    )
    if not fits:
        raise FrameError(
            f"frame: device {due[0]} sent activations of shape {list(shape)}, which do not fit the "
            f"model at cut {decision.cut}: run the same job on both sides"
        )
    return opened


def read_visit(frame: bytes, due: tuple[int, int, int], job: Job, most_bytes: int) -> Visit:
    """The visit in a frame. Raises FrameError unless it is of the device, round and step `due`."""
    visit = decode_visit(frame, max_bytes=most_bytes)
    if (visit.device, visit.round, visit.step) != due:
        raise FrameError(
            f"frame: device {due[0]} sent samples of device {visit.device}, round {visit.round}, "
            f"step {visit.step} instead of those of round {due[1]}, step {due[2]}: run the same "
            "cutlayer on both sides"
        )
    if len(visit.frames) > job.training.batch_size:
        raise FrameError(
            f"frame: device {due[0]} sent {len(visit.frames)} samples in a batch of at most "
            f"{job.training.batch_size}: run the same job on both sides"
        )
    return visit


@dataclass(frozen=True, eq=False)
class Answer:
    """The gradient [B, T, D] that goes down for a batch of activations, and its device's codec."""

    answered: ActivationsMessage
    codec: Codec
    loss: float
    gradient: Tensor


def gradient_frames(job: Job, answers: Sequence[Answer]) -> dict[int, bytes | RunError]:
    """The frame of each device's gradient, or the error if the codec cannot carry its values.

    Gradients with one codec are encoded in one call; with a fitted codec each is encoded alone, so
    that its step size does not depend on which devices share a pass.
    """
    found: dict[int, bytes | RunError] = {}
    alike: dict[Codec, list[Answer]] = {}
    for answer in answers:
        alike.setdefault(answer.codec, []).append(answer)
    for codec, together in alike.items():
        frames: Sequence[bytes | RunError] = []
        if not codec.positional:
            try:
                frames = _encoded(job, codec, together)
            except RunError:
                frames = []  # encode each alone to find the faulty one
        if not frames:
            frames = [_encoded_alone(job, codec, answer) for answer in together]
        found |= {
            answer.answered.device: frame for answer, frame in zip(together, frames, strict=True)
        }
    return found


def _encoded(job: Job, codec: Codec, answers: Sequence[Answer]) -> list[bytes]:
    messages, rngs = [], []
    for answer in answers:
        device, round, step = (one := answer.answered).device, one.round, one.step
        messages.append(
            GradientMessage(device, round, step, answer.gradient, answer.loss, one.mask)
        )
        rngs.append(torch_rng(job.seed, device, round, "downlink", step))
    return encode_gradients_with(codec, messages, rngs)


def _encoded_alone(job: Job, codec: Codec, answer: Answer) -> bytes | RunError:
    try:
        return _encoded(job, codec, [answer])[0]
    except RunError as fault:
        return fault
