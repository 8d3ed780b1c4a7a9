"""The rounds of a run, wherever its devices are: decided, trained, measured and committed.

What differs between a simulation and a network is the `Fleet` alone: `LocalFleet`
(simulation/local_fleet.py), `ShardedFleet` over ranks (simulation/sharded_fleet.py) or
`RemoteFleet` (network/server/remote_fleet.py). A fleet says which of the devices drawn are there
(`gather`: all, or those that are connected), how frames reach them (`link`: `LocalLink` of
train/link.py hands them over in this process; `RemoteLink` of network/server/remote_link.py sends
them, waits with deadlines, and takes devices for lost), what is known of their labels and speeds,
and whether seconds are those of a wall clock (`real`) or of the job's world. A device of a network
walks the same exchanges (train/exchange.py) in network/device/join.py.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from cutlayer.drawing.curves import curve_of, draw_curves
from cutlayer.drawing.selection_plot import draw_selection
from cutlayer.drawing.style import why_no_figures
from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.planning.calibration.record import Calibration, calibration_for
from cutlayer.planning.decide import decide
from cutlayer.planning.known.planning_input import Floats, PlanningSource, RoundDecisions
from cutlayer.planning.virtual_clock import VirtualClock
from cutlayer.record.checkpoint import RunState, commit_state, is_finite
from cutlayer.record.early_stop import is_over
from cutlayer.record.folder import ADAPTER_FOLDER, device_folder
from cutlayer.record.row_lines import FILE, line_of
from cutlayer.record.rows import Row
from cutlayer.record.writing import writing
from cutlayer.rounds.generated import GeneratedTraining, generated_training_for
from cutlayer.rounds.measure_round import measure_round
from cutlayer.rounds.progress import Progress, Silent
from cutlayer.rounds.result import Result
from cutlayer.rounds.sent_samples import append_sent, read_sent
from cutlayer.settings.precision import Precision
from cutlayer.train.bare_blocks import bare_blocks, with_bare_blocks
from cutlayer.train.cohort import draw_cohort
from cutlayer.train.label_sharing import SharedLabels
from cutlayer.train.link import Link
from cutlayer.train.own_tail import OwnTail
from cutlayer.train.parts import Parts, make_server
from cutlayer.train.public_batch import PublicBatch
from cutlayer.train.result import RoundResult, Trained
from cutlayer.train.round import Turn, train_round
from cutlayer.train.sensitivity import Sensitivity
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.server_optimizer import move_global
from cutlayer.train.tail_weighing import TailWeighing
from cutlayer.train.task import task_of
from cutlayer.train.unread import unread
from cutlayer.train.ways import FEATURE_GRADIENTS, FEATURES

_SENT = "sent_bytes"
"""How many bytes of the file of samples belong to a state."""


class Fleet(Protocol):
    """The devices of a run, in this process or elsewhere.

    real: their time is that of a clock on the wall, and not of the job's world.
    planning_source: what allocators go by instead of that world.
    """

    real: bool
    planning_source: PlanningSource | None

    @property
    def link(self) -> Link:
        """The connection to the devices that `gather` made ready last."""
        ...

    def gather(self, round: int, drawn: Sequence[int], state: RunState) -> dict[int, int]:
        """Make ready those of the devices drawn for a round that are there.

        Returns the samples of an epoch of each, in the order drawn.
        """
        ...

    def labels(self) -> SharedLabels:
        """What is known of the devices' labels; those elsewhere tell of theirs as they join."""
        ...

    def train_turn(self, turn: Turn) -> dict[int, Trained]:
        """Train devices that were gathered (see `TrainTurn` in train/round.py)."""
        ...

    def release(self, result: RoundResult, state: RunState, coding: ServerCoding) -> None:
        """End a round: `state` gets the adapters that devices keep, and that of `coding`."""
        ...


def run_rounds(
    folder: Path,
    job: Job,
    parts: Parts,
    fleet: Fleet,
    state: RunState,
    rows: list[Row],
    progress: Progress | None,
) -> Result:
    """Train the rounds that are left, committing each."""
    progress = progress or Silent()
    progress.started(job, folder, state.rounds)
    if missing := why_no_figures():
        progress.say(missing)
    for setting in unread(job):
        progress.say(setting.sentence())
    clock = None
    if job.world is not None and not fleet.real:
        clock = VirtualClock(job, parts.model.spec, sum(row.virtual_s or 0.0 for row in rows))
        for row in rows:
            clock.note(row.shape(job.training))
    calibrations = calibrations_of(job, progress)
    importance = importance_for(job, calibrations, progress)
    generated_training = generated_training_for(job, parts, rows)
    own, weigh, tail, own_tail = None, None, None, None
    public = PublicBatch(job, parts, lambda: state.adapter)
    if job.method.uplink.fit == "calibration":
        own = public.at
    if job.method.uplink.weighting:
        weigh = Sensitivity(job, parts.model, lambda: state.adapter)
    passing = (FEATURES, FEATURE_GRADIENTS)
    if any(way.fits_own(job) for way in passing):
        own_tail = OwnTail(job, parts, public, lambda: state.adapter)
    if any(way.weighs(job) and not way.fits_own(job) for way in passing):
        tail = TailWeighing(job, parts.model, lambda: state.adapter)
    coding = ServerCoding(job, parts.model.spec, state.coding, own, weigh, tail, own_tail)
    sent = 0
    if coding.cache is not None and _SENT in state.coding:
        sent = read_sent(folder, coding.cache, int(state.coding[_SENT]), progress.say)
    if coding.changes is not None and state.rounds:
        progress.say(
            "what both sides held of each sample was not saved with the run, so each is sent whole "
            "once more before changes of it are (method.uplink.change)"
        )
    while not is_over(job.training, state.rounds, _accuracy(rows)):
        result, decided = _train(
            job,
            parts,
            fleet,
            state,
            coding,
            rows,
            clock,
            calibrations,
            importance,
            generated_training,
            progress,
        )
        row = measure_round(job, parts, state, result, decided, clock, rows, coding)
        rows.append(row)
        with writing(folder):
            _append(folder / FILE, row)
            if coding.cache is not None:
                sent = append_sent(folder, coding.cache, sent)
                state.coding[_SENT] = torch.tensor(sent)
            commit_state(folder, state, job.training.keep_states)
        progress.round_done(row)
    if state.rounds < job.training.rounds:
        progress.say(
            f"stopped after round {state.rounds}: accuracy has not risen for "
            f"{job.training.patience} rounds (training.patience)"
        )
    with writing(folder):
        _export(folder / ADAPTER_FOLDER, job, parts, state)
        _draw(folder, job, rows)
    progress.finished()
    spec = parts.model.spec
    choices = spec.vocabulary if spec.parts.language else len(parts.test.classes)
    return Result(folder, job, rows, state.adapter, choices, len(parts.test))


def _accuracy(rows: Sequence[Row]) -> dict[int, float | None]:
    """The accuracy of each evaluated round, by the number of rounds done."""
    return {row.round + 1: row.accuracy for row in rows}


def calibrations_of(job: Job, progress: Progress) -> dict[Precision, Calibration]:
    """The calibrations that the job's allocator needs, by precision; none if it needs none.

    What there is none of is measured now, on the grid of those that there are.
    """
    if job.method.allocation.solver != "auto":
        return {}
    wanted = job.method.allocation.precisions
    found = {one: calibration_for(job, precision=one) for one in wanted}
    missing = [one for one in wanted if found[one] is None]
    if missing:
        from cutlayer.planning.calibration.calibrate import calibrate_in

        progress.say(
            "auto chooses by a calibration, and there is none yet for this model and data: "
            "measuring now, once, how many predictions survive each cut, number of tokens and bits "
            "(cutlayer calibrate shows it)"
        )
        there = next((one for one in found.values() if one is not None), None)
        found |= calibrate_in(missing, job, like=there, say=progress.say)
    return {one: record for one, record in found.items() if record is not None}


def importance_for(
    job: Job, calibrations: Mapping[Precision, Calibration], progress: Progress
) -> Mapping[int, Floats]:
    """By cut the importance of tokens by rank, as a calibration that there is already says it.

    Empty where there is none, and where a round's STE asks for none: without a world, and where no
    tokens are left out. Only a report's figure hangs on it, so a damaged record is said, and passed
    over.
    """
    if "float32" in calibrations:
        return calibrations["float32"].importance
    method = job.method
    chosen = method.tokens.keep is not None or ":" in method.allocation.solver
    if job.world is None or not method.split or not chosen:
        return {}
    try:
        found = calibration_for(job, exact=False)
    except RunError as error:
        progress.say(f"STE is left out: {error}")
        return {}
    return found.importance if found else {}


def _train(
    job: Job,
    parts: Parts,
    fleet: Fleet,
    state: RunState,
    coding: ServerCoding,
    rows: Sequence[Row],
    clock: VirtualClock | None,
    calibrations: Mapping[Precision, Calibration],
    importance: Mapping[int, Floats],
    generated_training: GeneratedTraining | None,
    progress: Progress,
) -> tuple[RoundResult, RoundDecisions]:
    """Decide and train the round after `rows`; `state` is then that of the round's end."""
    round = state.rounds
    drawn = draw_cohort(job, round)
    reachable, away = clock.reachable(round, drawn) if clock else (drawn, {})
    samples = fleet.gather(round, reachable, state)
    labels = fleet.labels()
    classes = len(parts.train.classes)
    planning_source = fleet.planning_source if fleet.real else clock
    decided = decide(
        job,
        round,
        samples,
        classes,
        fleet.link,
        planning_source,
        calibrations,
        labels,
        importance,
    )
    away = away | {device: "not connected" for device in reachable if device not in samples}
    decided = replace(decided, left_out=away | decided.left_out)
    bare = bare_blocks(job, [*(row.decisions for row in rows), decided.decisions])
    if bare and round == 0 and job.model.adapter is not None:
        progress.say(
            f"method.device is frozen: devices run the first {bare} blocks as they were "
            "pretrained, so that what model.adapter has trained in these is left out; to keep it, "
            "take method.device trained"
        )
    state.adapter = with_bare_blocks(job, parts.model, state.adapter, bare)
    server = make_server(job, parts, state.adapter, bare, coding)
    find_late = clock.find_late if clock else None
    result = train_round(
        job,
        round,
        decided.decisions,
        fleet.link,
        server,
        progress.step_done,
        find_late,
        fleet.train_turn,
    )
    if generated_training:
        generated_training.join(state.adapter, result, server, clock, labels)
    state.rounds = round + 1
    state.adapter, state.moments = move_global(
        job.training, state.adapter, server.adapter, state.moments, parts.model.trained
    )
    coding.end()
    fleet.release(result, state, coding)
    if not all(map(is_finite, (state.adapter, *state.kept.values()))):
        raise RunError(
            f"training: round {round + 1} left an adapter that is not finite: lower training.lr; "
            f"the state after round {round} is kept"
        )
    return result, decided


def _export(folder: Path, job: Job, parts: Parts, state: RunState) -> None:
    """The global adapter, or one for each device where each keeps its own."""
    classes = parts.train.classes
    task = task_of(job, parts.model.spec)
    if job.method.aggregate == "none" and not job.method.pooled:
        for index, adapter in sorted(state.kept.items()):
            task.export(adapter, parts.model, folder / device_folder(index), classes)
    else:
        task.export(state.adapter, parts.model, folder, classes)


def _append(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(line_of(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _draw(folder: Path, job: Job, rows: list[Row]) -> None:
    if why_no_figures() is not None:
        return
    draw_curves({job.method.name: [curve_of(rows)]}, folder / "figures")
    if job.world is not None and not job.method.pooled:
        draw_selection(rows, job.devices.count, folder / "figures" / "selection.png")
