"""What a run's record leaves out because the job gives it again: times, places, labels, tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from cutlayer.errors import CutlayerError
from cutlayer.job import Job
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.families import ModelSpec
from cutlayer.model.lora import Adapter
from cutlayer.planning.virtual_clock import VirtualClock
from cutlayer.record.rows import MOST_MEASURED, Row
from cutlayer.reports.views.pack import spread
from cutlayer.reports.views.runs import STAGES, Patches, Places, Spans
from cutlayer.train.parts import Parts
from cutlayer.wire.tokens import select
from cutlayer.world.world import World

MOST_ROUNDS, MOST_SPANS, MOST_PLACES = 400, 300_000, 100_000


def timelines(job: Job, spec: ModelSpec, rows: Sequence[Row], share: int = 1) -> list[Spans]:
    """When each stage happened, in evenly spread rounds: as many as a page has room for.

    share: how many runs the page holds. Raises WorldError when the job's world cannot be made.
    """
    clock = VirtualClock(job, spec)
    starts = np.cumsum([0.0] + [row.virtual_s or 0.0 for row in rows])
    last = _spans(clock, job, rows[-1], float(starts[-2]))
    room = min(MOST_ROUNDS, MOST_SPANS // share // max(1, len(last.place)))
    before = spread(range(len(rows)), max(2, room))[:-1]
    return [_spans(clock, job, rows[i], float(starts[i])) for i in before] + [last]


def _spans(clock: VirtualClock, job: Job, row: Row, now_s: float) -> Spans:
    """One round on the clock; stages that never end are left out."""
    clock.now_s = now_s
    shape = row.shape(job.training)
    line = clock.timeline(shape)
    parts = []
    for number, stage in enumerate(STAGES):
        start, end = line.start_s[stage], line.end_s[stage]
        with np.errstate(invalid="ignore"):
            step, place = np.nonzero((end > start) & np.isfinite(end))
        parts.append((place, np.full(len(place), number), start[step, place], end[step, place]))
    place, stages, start, end = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Spans(
        round=row.round,
        # Work on generated data may have made the round longer than its devices did.
        duration_s=line.duration_s if row.virtual_s is None else row.virtual_s,
        devices=shape.trained,
        late=[device for device, late in zip(shape.trained, line.late, strict=True) if late],
        place=place,
        stage=stages,
        start_s=start,
        end_s=end,
    )


def places(job: Job, rows: Sequence[Row], share: int = 1) -> Places:
    """Where the fleet was at the start of evenly spread rounds. Raises WorldError.

    Of a fleet beyond MOST_MEASURED only devices that were drawn in one of these rounds.
    """
    assert job.world is not None
    world = World(job.world, job.devices.count, job.seed)
    starts = np.cumsum([0.0] + [row.virtual_s or 0.0 for row in rows])
    devices: list[int] | None = None
    kept = list(range(len(rows)))
    if job.devices.count > MOST_MEASURED:
        kept = spread(kept, MOST_ROUNDS)
        drawn = {device for i in kept for device in (*rows[i].decisions, *rows[i].left_out)}
        devices = sorted(drawn)[:MOST_MEASURED]
    shown = job.devices.count if devices is None else max(1, len(devices))
    kept = spread(kept, max(2, MOST_PLACES // share // shown))
    states = [world.state(rows[i].round, float(starts[i]), devices=devices) for i in kept]
    return Places(
        rounds=[rows[i].round for i in kept],
        coverage_m=job.world.coverage_m,
        x_m=np.stack([state.x_m for state in states]),
        y_m=np.stack([state.y_m for state in states]),
        speed_mps=np.stack([state.speed_mps for state in states]),
        in_coverage=np.stack([state.in_coverage for state in states]),
        uplink_bps=np.stack([state.uplink_bps for state in states]),
        devices=devices,
    )


def patches(
    job: Job, parts: Parts, adapter: Adapter, cut: int, images: int, keep: int | None = None
) -> Patches:
    """Rank the patches of some test images, and ask the model what it sees with fewer.

    cut: 1 or more. images: how many, of as many different labels as there are. keep: what the run
    itself kept most often, which becomes one of the budgets. Raises CutlayerError where the model
    has no patches or no attention to rank them by.
    """
    model, test = parts.model, parts.test
    if test.modality != "image":
        raise CutlayerError("the data are texts, which have no patches")
    chosen = test.subset(_examples(test.labels, images))
    count = model.spec.tokens_at(cut) - model.spec.prefix
    if round(count**0.5) ** 2 != count:
        raise CutlayerError(f"{count} patches make no square")
    inputs = {k: v.to(model.compute) for k, v in parts.preprocess(chosen.inputs).items()}
    route = [Segment(adapter, len(chosen))]
    tokens = job.method.tokens
    own = keep if keep is not None and keep < count else None
    budgets = sorted({max(1, count // part) for part in (8, 4, 2)} | ({own} if own else set()))
    with torch.no_grad():
        sent = model.device_forward(inputs, cut, route, score=tokens.score)
        assert sent.scores is not None
        answers = [_answers(model, sent.hidden, cut, route)]
        for budget in budgets:
            short = tokens.model_copy(update={"keep": budget})
            kept = select(sent.hidden, sent.scores, model.spec.prefix, short)
            answers.append(_answers(model, kept.hidden, cut, route))
    order = sent.scores.sort(dim=1, descending=True, stable=True).indices
    assert isinstance(chosen.inputs, torch.Tensor)
    return Patches(
        cut=cut,
        score=tokens.score,
        rest=tokens.rest,
        images=chosen.inputs.permute(0, 2, 3, 1).numpy(),
        labels=[chosen.classes[label] for label in chosen.labels],
        ranks=order.argsort(dim=1).cpu().numpy(),
        budgets=budgets,
        own=own,
        predicted=[[chosen.classes[answer[i]] for answer in answers] for i in range(len(chosen))],
    )


def _answers(model: CutModel, hidden: torch.Tensor, cut: int, route: list[Segment]) -> list[int]:
    logits = model.server_forward(hidden, None, cut, route)
    return [int(label) for label in logits.argmax(dim=1)]


def _examples(labels: np.ndarray, count: int) -> list[int]:
    """The first sample of each label, then the second of each, and so on, `count` in all."""
    seen: dict[int, int] = defaultdict(int)
    turns = []
    for index, label in enumerate(labels.tolist()):
        turns.append((seen[label], label, index))
        seen[label] += 1
    return [index for _, _, index in sorted(turns)[:count]]
