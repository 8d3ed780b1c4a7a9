"""Measures a round: makes its row of the record, and evaluates the model where that is due."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.planning.known.planning_input import RoundDecisions
from cutlayer.planning.virtual_clock import VirtualClock
from cutlayer.record.checkpoint import RunState
from cutlayer.record.early_stop import is_over
from cutlayer.record.rows import MOST_MEASURED, Row
from cutlayer.settings.method import Method
from cutlayer.train.accounting import epsilon_of
from cutlayer.train.accuracy import joined
from cutlayer.train.evaluate import LogitsOf, evaluate, through_cut, unsplit
from cutlayer.train.parts import Parts
from cutlayer.train.result import RoundResult
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.task import Task, task_of


def measure_round(
    job: Job,
    parts: Parts,
    state: RunState,
    result: RoundResult,
    decided: RoundDecisions,
    clock: VirtualClock | None,
    earlier: Sequence[Row],
    coding: ServerCoding | None = None,
) -> Row:
    """The round's row, with an evaluation where one is due; the virtual clock moves on.

    earlier: the rows of the rounds before. coding: how activations come.
    """
    shape, generated = result.shape, result.generated
    generated_s = generated.seconds if generated else 0.0
    virtual_s, joules = clock.close(shape, generated_s) if clock else (None, {})
    tested = _test(job, parts, state, result, earlier, coding)
    return Row(
        round=result.round,
        decisions=result.decisions,
        left_out=decided.left_out,
        samples_trained={device: sum(sizes) for device, sizes in result.batches.items()},
        steps={device: len(sizes) for device, sizes in shape.batches.items()},
        computed={device: list(sizes) for device, sizes in shape.computed.items()},
        loss=result.loss,
        traffic={device: list(astuple(traffic)) for device, traffic in result.traffic.items()},
        seconds={stage: round(s, 4) for stage, s in result.watch.seconds.items()},
        cpu_seconds=round(result.cpu_seconds, 3),
        device_loss={d: float(np.mean(losses)) for d, losses in result.losses.items()},
        late=result.late,
        lost=sorted(result.lost),
        clipped={device: round(times, 4) for device, times in result.clipped.items()},
        clipped_tokens=result.clipped_tokens,
        virtual_s=virtual_s,
        joules=joules,
        planned_s=decided.planned_s,
        ste=decided.ste,
        ste_bound=decided.ste_bound,
        overhead_bytes=result.overhead_bytes,
        **tested,
        **_generated(result),
        **_hidden(job, result, earlier),
    )


def _test(
    job: Job,
    parts: Parts,
    state: RunState,
    result: RoundResult,
    earlier: Sequence[Row],
    coding: ServerCoding | None,
) -> dict[str, Any]:
    """The accuracy fields of a row; empty in a round without an evaluation."""
    done, training = state.rounds, job.training
    if done < training.rounds and done % training.evaluate_every:
        return {}
    with result.watch.timed("evaluate"):
        task = task_of(job, parts.model.spec)
        models = {
            device: unsplit(parts.model, parts.preprocess, adapter)
            for device, adapter in _adapters(job, state).items()
        }
        tested = {device: evaluate(task, model, parts.test) for device, model in models.items()}
        evaluations = list(tested.values())
        whole = joined(evaluations)
        accuracy = {row.round + 1: row.accuracy for row in earlier} | {done: whole.accuracy}
        found = {
            "accuracy": whole.accuracy,
            "test_loss": whole.loss,
            "test_samples": len(parts.test),
            "perplexity": whole.perplexity,
            "macro_f1": _mean([one.macro_f1 for one in evaluations]),
            "class_accuracy": whole.by_class,
            "label_mix_accuracy": [
                own.on_mix(counts) if (own := tested.get(device, tested.get(None))) else None
                for device, counts in enumerate(parts.counts.first(MOST_MEASURED))
            ],
            **_held_out(task, parts, models),
        }
        if not is_over(training, done, accuracy):
            return found
        found["confusion"] = whole.confusion
        if not job.method.split or not result.decisions:
            return found
        one = typical(result.decisions.values(), job.method)
        coding = coding or ServerCoding(job, parts.model.spec)
        down = job.method.features_down.value_bits if job.has_tail else 32
        changed = one.tokens or min(one.bits_up, down) < 32 or one.precision != "float32"
        if changed or coding.codec_for(one):
            given = parts.model, parts.preprocess, state.adapter, coding, parts.blocks
            served = through_cut(job, task, one, *given)
            measured = evaluate(task, served, parts.test)
            found["accuracy_through_cut"] = measured.accuracy
            found["perplexity_through_cut"] = measured.perplexity
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    """None where some value is."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if len(there) == len(values) else None


def _held_out(task: Task, parts: Parts, models: Mapping[int | None, LogitsOf]) -> dict[str, Any]:
    """Accuracy on each device's held-out samples, by the one model or by each device's own."""
    if not any(map(len, parts.held_out)):
        return {}
    sizes = [len(indices) for indices in parts.held_out]
    accuracy: list[float | None] = [None] * len(sizes)
    if None in models:
        every = parts.train.subset(np.concatenate(parts.held_out))
        evaluation = evaluate(task, models[None], every)
        ends = np.cumsum(sizes).tolist()
        accuracy = [evaluation.part(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    else:
        for device, indices in enumerate(parts.held_out):
            if len(indices) and device in models:
                own = parts.train.subset(indices)
                accuracy[device] = evaluate(task, models[device], own).accuracy
    return {"held_out_accuracy": accuracy, "held_out_samples": sizes}


def _generated(result: RoundResult) -> dict[str, Any]:
    """The fields of a row on generated data; empty where the job generates none."""
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


def _hidden(job: Job, result: RoundResult, earlier: Sequence[Row]) -> dict[str, Any]:
    """The fields of a row on differential privacy; empty where the job asks for none.

    A round whose row was damaged counts as one in which every device took part.
    """
    known = {row.round: row.decisions for row in earlier}
    every = range(job.devices.count)
    rounds: list[Iterable[int]] = [known.get(round, every) for round in range(result.round)]
    epsilon = epsilon_of(job, [*rounds, result.decisions])
    if epsilon is None:
        return {}
    privacy = job.privacy
    return {"epsilon": epsilon, "delta": privacy.delta, "hidden_unit": privacy.unit}


def typical(decisions: Iterable[Decision], method: Method) -> Decision:
    """The median decision of a round, ordered from the fewest tokens and bits to the most."""

    def size(one: Decision) -> float:
        return one.value_bits(method) * (math.inf if one.tokens is None else one.tokens)

    ranked = sorted(decisions, key=size)
    return ranked[len(ranked) // 2]


def _adapters(job: Job, state: RunState) -> dict[int | None, Adapter]:
    """The global adapter, of None; or each device's own where nothing is aggregated: of those that
    have trained one, and of the others only where the job asks.
    """
    if job.method.aggregate != "none" or job.method.pooled:
        return {None: state.adapter}
    asked = job.training.evaluate_absent or not state.kept
    devices = range(job.devices.count) if asked else sorted(state.kept)
    return {device: state.kept.get(device, state.adapter) for device in devices}
