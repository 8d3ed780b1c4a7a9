"""The logits of a trained model on a data set, unsplit or through the cut, and their scores."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from cutlayer.allocate.decision import Decision
from cutlayer.data.dataset import Dataset
from cutlayer.job import Job
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter
from cutlayer.seeds import derive, torch_rng
from cutlayer.train.accuracy import Tested
from cutlayer.train.device_blocks import DeviceBlocks, run_in
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.shortened import shorten
from cutlayer.train.task import Task
from cutlayer.train.u_shape import crossing_of, from_rows, row_positions, to_rows
from cutlayer.train.ways import FEATURES
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
    coding: ServerCoding,
    blocks: DeviceBlocks | None = None,
) -> LogitsOf:
    """Logits of a device and a server together, by one decision's cut, tokens, bits and precision.

    coding: the run's, whose codecs may be fitted. blocks: run the device's in other numbers than
    float32.
    """
    cut = decision.cut
    tokens = decision.selection(job.method)
    codec: Codec | None = coding.codec_for(decision)
    if codec is None:
        codec = QuantizedCodec(decision.uplink(job.method), derive(job.seed, "rotation"))
    down = coding.ways[FEATURES].codec(decision)

    def logits_of(part: Dataset, start: int) -> Outputs:
        route = [Segment(adapter, len(part))]
        score = tokens.score if decision.tokens is not None else None
        inputs = _inputs(model, preprocess, part)
        if decision.precision == "float32":
            activations = model.device_forward(inputs, cut, route, score=score)
        else:
            given = decision.precision, blocks, cut, score is not None
            activations = run_in(*given, inputs, [len(part)])
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
            made = model.middle_forward(hidden, mask, cut, route)
            due = crossing_of(job, task, goal, received.mask)
            returned = _returned(job, decision, model, down, made, due, start)
            return Outputs(model.tail_forward(returned, mask, route), inputs)
        return Outputs(model.server_forward(hidden, mask, cut, route), inputs)

    return logits_of


def _returned(
    job: Job,
    decision: Decision,
    model: CutModel,
    codec: Codec,
    features: torch.Tensor,
    mask: torch.Tensor | None,
    start: int,
) -> torch.Tensor:
    """Features [B,T,D] as they reach the tail on a device; mask [B,T]: which do, on the CPU."""
    B, T, D = features.shape
    positions = row_positions(B, T, mask, model.spec.prefix, decision.tokens is not None)
    made = FeaturesMessage(0, 0, 0, to_rows(features, mask), positions=positions)
    (frame,) = encode_features([made], codec, [torch_rng(job.seed, "evaluate tail", start)])
    most = 2 * len(frame) + 8 * features.nbytes
    rows = decode_features(frame, codec=codec, positions=positions, max_bytes=most).rows
    return from_rows(rows, (B, T, D), mask, "what the server made of the batch").to(features)


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
