"""What a round comes to: its row of the record, with an evaluation where one is due."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.planning.known.planning_input import RoundDecisions
from cutlayer.planning.virtual_clock import VirtualClock
from cutlayer.record.checkpoint import RunState
from cutlayer.record.rows import Row
from cutlayer.train.evaluate import Evaluation, evaluate, evaluate_through_cut
from cutlayer.train.parts import Parts
from cutlayer.train.result import RoundResult
from cutlayer.train.task import task_of
from cutlayer.wire.codecs.seam import Codec


def measure_round(
    job: Job,
    parts: Parts,
    state: RunState,
    result: RoundResult,
    decided: RoundDecisions,
    clock: VirtualClock | None,
    codec: Codec | None,
) -> Row:
    """The round's row, with an evaluation where one is due; the virtual clock moves on.

    codec: that of the uplink, where it is a fitted one.
    """
    shape, generated = result.shape, result.generated
    generated_s = generated.seconds if generated else 0.0
    virtual_s, joules = clock.close(shape, generated_s) if clock else (None, {})
    last = state.rounds == job.training.rounds
    accuracy = test_loss = through_cut = None
    device_accuracy: list[float] = []
    if last or state.rounds % job.training.evaluate_every == 0:
        with result.watch.timed("evaluate"):
            evaluations = _evaluate(job, parts, state)
            accuracy = float(np.mean([e.accuracy for e in evaluations]))
            test_loss = float(np.mean([e.loss for e in evaluations]))
            device_accuracy = [
                evaluations[index % len(evaluations)].on_mix(counts)
                for index, counts in enumerate(parts.counts)
            ]
            one = typical(result.decisions.values())
            if last and job.method.split and (one.tokens or one.bits_up < 32 or codec):
                task = task_of(job, len(parts.train.classes))
                through_cut = evaluate_through_cut(
                    job, task, one, parts.model, parts.preprocess, state.adapter, parts.test, codec
                ).accuracy
    return Row(
        round=result.round,
        decisions=result.decisions,
        left_out=decided.left_out,
        samples_all_epochs={device: sum(sizes) for device, sizes in result.batches.items()},
        steps={device: len(sizes) for device, sizes in shape.batches.items()},
        computed={device: list(sizes) for device, sizes in shape.computed.items()},
        loss=result.loss,
        traffic={
            device: [t.activations, t.gradients, t.adapter_down, t.adapter_up, t.coding_down]
            for device, t in result.traffic.items()
        },
        seconds={stage: round(s, 4) for stage, s in result.watch.seconds.items()},
        cpu_seconds=round(result.cpu_seconds, 3),
        device_loss={d: float(np.mean(losses)) for d, losses in result.losses.items()},
        accuracy=accuracy,
        test_loss=test_loss,
        accuracy_through_cut=through_cut,
        device_accuracy=device_accuracy,
        late=result.late,
        lost=result.lost,
        virtual_s=virtual_s,
        joules=joules,
        planned_s=decided.planned_s,
        ste=decided.ste,
        ste_bound=decided.ste_bound,
        overhead_bytes=result.overhead_bytes,
        **_generated(result),
    )


def _generated(result: RoundResult) -> dict[str, Any]:
    """The row's fields on generated data; none without."""
    found = result.generated
    if found is None:
        return {}
    return {
        "generated": list(found.counts),
        "generated_weight": found.weight,
        "generated_s": found.seconds,
        "generated_image_s": found.image_s,
        "generated_loss": found.loss,
    }


def typical(decisions: Iterable[Decision]) -> Decision:
    """The decision in the middle of a round's, from the fewest tokens and bits to the most."""

    def size(one: Decision) -> float:
        return one.bits_up * (math.inf if one.tokens is None else one.tokens)

    ranked = sorted(decisions, key=size)
    return ranked[len(ranked) // 2]


def _evaluate(job: Job, parts: Parts, state: RunState) -> list[Evaluation]:
    """The aggregated model's evaluation, or each device's own where nothing is aggregated."""
    adapters = [state.adapter]
    if job.method.aggregate == "none" and not job.method.pooled:
        adapters = [state.kept.get(i, state.adapter) for i in range(job.devices.count)]
    task = task_of(job, len(parts.train.classes))
    return [evaluate(task, parts.model, parts.preprocess, a, parts.test) for a in adapters]
