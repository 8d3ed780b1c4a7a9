"""The frames of a step as the server reads and writes them."""

import torch

from cutlayer.allocate.decision import Decision
from cutlayer.errors import FrameError
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.seeds import derive, torch_rng
from cutlayer.wire.codec import (
    ActivationsMessage,
    GradientMessage,
    decode_activations,
    encode_gradient,
)
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.visit import Visit, decode_visit


def read_activations(
    frame: bytes,
    due: tuple[int, int, int],
    decision: Decision,
    spec: ModelSpec,
    job: Job,
    most_bytes: int,
    codec: Codec | None = None,
    single: bool = False,
) -> ActivationsMessage:
    """The activations of a frame, on the CPU.

    due: the device, round and step they must be of. most_bytes: the size of the largest frame
    that the job can need. codec: the fitted codec, where the job has one. single: the frame holds
    one sample. Raises FrameError for a frame of another device, round, step or shape.
    """
    message = decode_activations(frame, codec=codec, max_bytes=most_bytes)
    if (message.device, message.round, message.step) != due:
        raise FrameError(
            f"frame: device {due[0]} sent activations of device {message.device}, round "
            f"{message.round}, step {message.step} when those of round {due[1]}, step {due[2]} "
            "were due: run the same cutlayer on both sides"
        )
    shape = tuple(message.hidden.shape)
    tokens = spec.tokens_at(decision.cut)
    if decision.tokens is not None and decision.tokens < tokens - spec.prefix:
        # One token may stand for all that were not kept.
        tokens = spec.prefix + decision.tokens + (job.method.tokens.rest == "merge")
    fits = (
        shape[0] <= (1 if single else job.training.batch_size)
        and (shape[1] <= tokens if spec.modality == "text" else shape[1] == tokens)
        and shape[2] == spec.width_at(decision.cut)
        and (message.mask is not None) == (spec.modality == "text")
    )
    if not fits:
        raise FrameError(
            f"frame: device {due[0]} sent activations of shape {list(shape)}, which do not fit the "
            f"model at cut {decision.cut}: run the same job on both sides"
        )
    return message


def read_visit(frame: bytes, due: tuple[int, int, int], job: Job, most_bytes: int) -> Visit:
    """A visit of the device, round and step that are due. Raises FrameError for any other."""
    visit = decode_visit(frame, max_bytes=most_bytes)
    if (visit.device, visit.round, visit.step) != due:
        raise FrameError(
            f"frame: device {due[0]} sent samples of device {visit.device}, round {visit.round}, "
            f"step {visit.step} when those of round {due[1]}, step {due[2]} were due: run the same "
            "cutlayer on both sides"
        )
    if len(visit.frames) > job.training.batch_size:
        raise FrameError(
            f"frame: device {due[0]} sent {len(visit.frames)} samples in a batch of at most "
            f"{job.training.batch_size}: run the same job on both sides"
        )
    return visit


def gradient_frame(
    job: Job, decision: Decision, answered: ActivationsMessage, loss: float, gradient: torch.Tensor
) -> bytes:
    """A frame of the gradient [B, T, D] of a message's activations, in the bits of its decision.

    Raises RunError for values that the bits cannot carry.
    """
    key = (answered.device, answered.round, "downlink", answered.step)
    return encode_gradient(
        GradientMessage(
            answered.device, answered.round, answered.step, gradient, loss, answered.mask
        ),
        decision.downlink(job.method),
        rng=torch_rng(job.seed, *key),
        rotation_seed=derive(job.seed, "rotation"),
    )
