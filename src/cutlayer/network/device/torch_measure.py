"""Measures what a batch takes on a device that has torch: time, and memory at the peak."""

import time
from collections.abc import Sequence

import torch

from cutlayer.allocate.decision import base_decision
from cutlayer.light.batch_cost import BatchCost, peak_bytes
from cutlayer.seeds import derive
from cutlayer.settings.method import Quantizer
from cutlayer.train.device import Device
from cutlayer.train.exchange import (
    ACTIVATIONS,
    FEATURES,
    Exchange,
    Payload,
    step_exchanges,
    trained_names,
)
from cutlayer.train.opening import Opening
from cutlayer.train.pool import Pool
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.wire.codec import decode_activations, encode_gradient
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.messages import ActivationsMessage, GradientMessage
from cutlayer.wire.tail import FeaturesMessage, encode_features

_BATCHES = 5
_PLAIN = Quantizer(bits=32)


def measure(device: Device) -> BatchCost:
    """Train on some batches of the device's own samples, as in a round of its job.

    Cut, tokens and bits are those of the job; what an allocator would choose is not known yet. The
    server's answers are zeros, so that the device is of no use for a run afterwards.
    """
    job, model = device.job, device.model
    decision = base_decision(job)
    fresh = model.new_adapter(derive(job.seed, "adapter"))
    device.adapter = {name: fresh[name] for name in trained_names(job.method, model, decision.cut)}
    device.reuses = False  # every batch is computed and sent, as at a sample's first visit
    device.coding.begin(Opening(plain_steps=_BATCHES))  # as long as no basis was fitted
    device.begin(0, decision, None)
    pool = Pool([device])
    exchanges = step_exchanges(job.method, model, decision.cut)
    steps = [_walk(pool, exchanges, step) for step in range(min(_BATCHES, device.steps))]
    size = min(job.training.batch_size, device.samples)
    on_gpu = model.compute.type == "cuda"
    gpu_bytes = torch.cuda.max_memory_reserved(model.compute) if on_gpu else None
    return BatchCost(min(steps), size, peak_bytes(), gpu_bytes)


def _walk(pool: Pool, exchanges: Sequence[Exchange], step: int) -> float:
    """Seconds of the device's side of a step."""
    (device,) = pool.devices
    watch, seconds = Stopwatch(), 0.0
    sent: ActivationsMessage | None = None
    for exchange in exchanges:
        if exchange.up:
            start = time.perf_counter()
            (payload,) = pool.send(exchange, step, watch)
            seconds += time.perf_counter() - start
            if exchange == ACTIVATIONS:
                sent = _activations(payload)
        else:
            assert sent is not None
            frame = _answer(exchange, sent, device)
            start = time.perf_counter()
            pool.receive(exchange, step, {device.id: frame}, watch)
            _finish(device.model.compute)
            seconds += time.perf_counter() - start
    return seconds


def _activations(payload: Payload) -> ActivationsMessage:
    assert isinstance(payload, bytes)
    return decode_activations(payload)


def _answer(exchange: Exchange, sent: ActivationsMessage, device: Device) -> bytes:
    """What the server sends down in an exchange: zeros of the due shape."""
    due = (device.id, device.round, sent.step)
    zeros = torch.zeros_like(sent.hidden)
    if exchange != FEATURES:
        return encode_gradient(GradientMessage(*due, zeros, 0.0, sent.mask), _PLAIN)
    model = device.model
    tokens = sent.hidden.shape[0] * sent.hidden.shape[1] if sent.mask is None else sent.mask.sum()
    rows = torch.zeros(int(tokens), model.spec.width_at(model.spec.end))
    (frame,) = encode_features([FeaturesMessage(*due, rows)], QuantizedCodec(_PLAIN))
    return frame


def _finish(compute: torch.device) -> None:
    """Wait for a GPU, whose work goes on after a call has returned."""
    if compute.type == "cuda":
        torch.cuda.synchronize(compute)
