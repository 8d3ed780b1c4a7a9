"""The logits of a trained model on a data set, unsplit or through the cut, and their scores."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from cutlayer.allocate.decision import Decision
from cutlayer.data.dataset import Dataset
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter, Segment
from cutlayer.seeds import derive, torch_rng
from cutlayer.train.accuracy import Tested
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.shortened import shorten
from cutlayer.train.task import Task
from cutlayer.train.u_shape import from_rows, to_rows
from cutlayer.wire.codec import decode_activations, encode_activations_with
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.tail import FeaturesMessage, decode_features, encode_features


class Outputs(NamedTuple):
    """Logits of a part of a data set, and the inputs for which they were computed."""

    logits: torch.Tensor
    inputs: dict[str, torch.Tensor]


LogitsOf = Callable[[Dataset, int], Outputs]
"""Computes the outputs of a part of a data set, given the index of the part's first sample."""


def unsplit(model: CutModel, preprocess: Preprocessor, adapter: Adapter) -> LogitsOf:
    """Logits of the unsplit model with `adapter`, as after an export."""

    def logits_of(part: Dataset, start: int) -> Outputs:
        inputs = _inputs(model, preprocess, part)
        return Outputs(model.forward(inputs, [Segment(adapter, len(part))]), inputs)

    return logits_of


def through_cut(
    job: Job,
    task: Task,
    decision: Decision,
    model: CutModel,
    preprocess: Preprocessor,
    adapter: Adapter,
    fitted: Codec | None = None,
) -> LogitsOf:
    """Logits of a device and a server together, with one decision's cut, tokens and bits.

    fitted: the run's codec, if the uplink's codec is a fitted one.
    """
    cut = decision.cut
    tokens = decision.selection(job.method)
    codec = fitted or QuantizedCodec(decision.uplink(job.method), derive(job.seed, "rotation"))

    def logits_of(part: Dataset, start: int) -> Outputs:
        route = [Segment(adapter, len(part))]
        score = tokens.score if decision.tokens is not None else None
        inputs = _inputs(model, preprocess, part)
        activations = model.device_forward(inputs, cut, route, score=score)
        sent = shorten(activations, tokens, model.spec.prefix)
        goal = task.targets(part, inputs)
        message = task.message(0, 0, 0, sent.hidden, sent.mask, goal)
        message = replace(message, places=sent.places)
        rng, most = torch_rng(job.seed, "evaluate", start), frame_limit(model, len(part))
        (frame,) = encode_activations_with(codec, [message], [rng])
        received = decode_activations(frame, codec=codec, max_bytes=most, device=model.compute)
        mask = received.mask.to(model.compute) if received.mask is not None else None
        hidden = received.hidden
        if job.has_tail:
            features = model.middle_forward(hidden, mask, cut, route)
            returned = _returned(job, features, received.mask, start)
            return Outputs(model.tail_forward(returned, mask, route), inputs)
        return Outputs(model.server_forward(hidden, mask, cut, route), inputs)

    return logits_of


def _returned(
    job: Job, features: torch.Tensor, mask: torch.Tensor | None, start: int
) -> torch.Tensor:
    """Features [B,T,D] as they reach the tail on a device; mask [B,T] on the CPU."""
    B, T, D = features.shape
    made = FeaturesMessage(0, 0, 0, to_rows(features, mask))
    rng, rotation = torch_rng(job.seed, "evaluate tail", start), derive(job.seed, "rotation")
    (frame,) = encode_features([made], job.method.features_down, [rng], rotation)
    rows = decode_features(frame, max_bytes=2 * len(frame) + 8 * features.nbytes).rows
    return from_rows(rows, (B, T, D), mask, "the server's frame of features").to(features)


def evaluate(task: Task, logits_of: LogitsOf, data: Dataset) -> Tested:
    """Score a model's logits on `data`."""

    def outputs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        starts = range(0, len(data), task.test_batch)
        parts = [np.arange(start, min(start + task.test_batch, len(data))) for start in starts]
        for number, start in enumerate(starts):
            for soon in parts[number : number + 2]:  # the next is decoded while this one is tested
                data.expect(soon)
            part = data.subset(parts[number])
            logits, inputs = logits_of(part, start)
            yield logits, task.targets(part, inputs)

    with torch.no_grad():
        return task.evaluation(outputs(), data)


def _inputs(model: CutModel, preprocess: Preprocessor, part: Dataset) -> dict[str, torch.Tensor]:
    return {k: v.to(model.compute) for k, v in preprocess(part.inputs).items()}
