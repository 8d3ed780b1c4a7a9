"""A job on one machine: every device and the server in one process, resumable after any stop."""

import datetime
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cutlayer.allocate.decision import Decision
from cutlayer.errors import RunError
from cutlayer.files import write_atomically
from cutlayer.job import Job, dump_job, load_job
from cutlayer.model.export import save_adapter
from cutlayer.model.lora import Adapter
from cutlayer.report import curves, plots
from cutlayer.report.record import FILE, Row, read_rows
from cutlayer.run.calibration import Calibration, calibration_for
from cutlayer.run.checkpoint import State, load_state, save_state
from cutlayer.run.decide import decide
from cutlayer.run.progress import Progress, Silent
from cutlayer.run.setup import (
    Parts,
    first_adapter,
    load_parts,
    make_device,
    make_server,
    parts_for,
    samples_a_round,
)
from cutlayer.run.situation import Allotment
from cutlayer.run.virtual import VirtualClock
from cutlayer.run.writing import writing
from cutlayer.train.cohort import draw_cohort
from cutlayer.train.device import Device
from cutlayer.train.evaluate import Evaluation, evaluate, evaluate_through_cut
from cutlayer.train.link import LocalLink
from cutlayer.train.result import RoundResult
from cutlayer.train.round import train_round

JOB_FILE, STATE_FILE, ADAPTER_FOLDER = "job.yaml", "state.safetensors", "adapter"


@dataclass(frozen=True)
class Result:
    """A finished run: where it lies and what it measured."""

    folder: Path
    job: Job
    rows: list[Row]
    adapter: Adapter

    @property
    def accuracy(self) -> float:
        """Accuracy on the held-out set after the last round."""
        accuracy = self.rows[-1].accuracy
        assert accuracy is not None  # the last round is always evaluated
        return accuracy

    @property
    def up_bytes(self) -> int:
        """Bytes from the devices to the server over the whole run."""
        return sum(row.up_bytes for row in self.rows)

    @property
    def down_bytes(self) -> int:
        """Bytes from the server to the devices over the whole run."""
        return sum(row.down_bytes for row in self.rows)

    @property
    def adapter_folder(self) -> Path:
        """The trained adapter in PEFT's format."""
        return self.folder / ADAPTER_FOLDER


def simulate(
    job: Job,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    parts: Parts | None = None,
) -> Result:
    """Train `job` and write its run folder.

    out: the run folder (None: a new one below runs/). parts: model and data loaded before, by
    `load_parts` of a job with the same model, data, devices and seed.
    Raises JobError, DataError, ModelError, WorldError or RunError, each with one sentence.
    """
    folder = Path(out) if out is not None else new_folder(job.method.name)
    if (folder / JOB_FILE).exists():
        raise RunError(
            f"run folder: {folder} already holds a run: give another with --out, or continue it "
            f"with cutlayer simulate --resume {folder}"
        )
    parts = parts_for(job, parts) if parts else load_parts(job)
    _begin(folder, job, parts)
    return _run(folder, job, parts, State(0, first_adapter(job, parts.model)), [], progress)


def resume(folder: str | Path, progress: Progress | None = None) -> Result:
    """Go on with the run in `folder` after its last finished round.

    It ends with the adapter that an uninterrupted run would have reached. Raises as `simulate`.
    """
    folder = Path(folder)
    if not (folder / JOB_FILE).is_file():
        raise RunError(f"--resume: {folder} holds no run: give the folder of a run")
    job = load_job(folder / JOB_FILE)
    parts = load_parts(job)
    if not (folder / STATE_FILE).exists():  # stopped before its first round was finished
        _begin(folder, job, parts)
        return _run(folder, job, parts, State(0, first_adapter(job, parts.model)), [], progress)
    state = load_state(folder / STATE_FILE)
    rows = read_rows(folder)[: state.rounds]
    if len(rows) < state.rounds:
        raise RunError(
            f"--resume: {folder / FILE} has {len(rows)} rounds but {STATE_FILE} comes from round "
            f"{state.rounds}: start the run again in a new folder"
        )
    with writing(folder):  # a round recorded but not committed is run again
        write_atomically(folder / FILE, "".join(r.to_json() + "\n" for r in rows).encode())
    return _run(folder, job, parts, state, rows, progress)


def _run(
    folder: Path, job: Job, parts: Parts, state: State, rows: list[Row], progress: Progress | None
) -> Result:
    """Train the rounds that are left, committing each."""
    progress = progress or Silent()
    progress.started(job, folder, state.rounds)
    clock = None
    if job.world is not None:
        clock = VirtualClock(job, parts.model.spec, sum(row.virtual_s or 0.0 for row in rows))
    calibration = calibration_of(job, progress)
    devices: dict[int, Device] = {}
    for round in range(state.rounds, job.training.rounds):
        result, allotment = _train(job, parts, state, devices, round, clock, calibration, progress)
        row = _measure(job, parts, state, result, allotment, clock)
        rows.append(row)
        with writing(folder):
            _append(folder / FILE, row)
            save_state(folder / STATE_FILE, state)
        progress.round_done(row)
    with writing(folder):
        _export(folder / ADAPTER_FOLDER, job, parts, state)
        _draw(folder, job, rows)
    progress.finished()
    return Result(folder, job, rows, state.adapter)


def calibration_of(job: Job, progress: Progress) -> Calibration | None:
    """The job's calibration where its allocator wants one; measured now if it never was."""
    if job.method.allocation.solver != "auto":
        return None
    found = calibration_for(job)
    if found is None:
        from cutlayer.run.calibrate import calibrate

        progress.say("measuring once what survives the cut (cutlayer calibrate shows it)")
        found = calibrate(job)
    return found


def new_folder(name: str) -> Path:
    """A folder below runs/ named by the time and `name`, not yet made."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{stamp}-{name.replace(':', '.')}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _begin(folder: Path, job: Job, parts: Parts) -> None:
    """Make the run folder, with the job and the picture of who holds what."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / JOB_FILE, dump_job(job).encode())
        write_atomically(folder / FILE, b"")
        (folder / "figures").mkdir(exist_ok=True)
        plots.label_map(parts.counts, parts.train.classes, folder / "figures" / "labels.png")


def _train(
    job: Job,
    parts: Parts,
    state: State,
    devices: dict[int, Device],
    round: int,
    clock: VirtualClock | None,
    calibration: Calibration | None,
    progress: Progress,
) -> tuple[RoundResult, Allotment]:
    """Decide and train one round; `state` is then that of the round's end."""
    drawn = draw_cohort(job, round)
    cohort = []
    for index in clock.covered(round, drawn) if clock else drawn:
        if index not in devices:
            devices[index] = make_device(job, parts, index)
        device = devices[index]
        device.samples_a_round = samples_a_round(job, parts, round)
        if job.method.aggregate == "none":
            device.adapter = _copy(state.kept.get(index, state.adapter))
        cohort.append(device)
    link, server = LocalLink(cohort), make_server(job, parts, state.adapter)
    samples = {device.id: device.samples for device in cohort}
    classes = len(parts.train.classes)
    allotment = decide(job, round, samples, classes, link, clock, calibration)
    find_late = clock.find_late if clock else None
    result = train_round(
        job, round, allotment.decisions, link, server, progress.step_done, find_late
    )
    state.rounds, state.adapter = round + 1, server.adapter
    if job.method.pooled:
        state.adapter = _copy(cohort[0].adapter)
    elif job.method.aggregate == "none":
        state.kept |= {device: _copy(link.devices[device].adapter) for device in result.cohort}
    return result, allotment


def _copy(adapter: Adapter) -> Adapter:
    return {name: tensor.detach().clone() for name, tensor in adapter.items()}


def _measure(
    job: Job,
    parts: Parts,
    state: State,
    result: RoundResult,
    allotment: Allotment,
    clock: VirtualClock | None,
) -> Row:
    """The round's row, with an evaluation where one is due; the virtual clock moves on."""
    virtual_s, joules = clock.close(result) if clock else (None, {})
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
            if last and job.method.split and (one.tokens or one.bits_up < 32):
                through_cut = evaluate_through_cut(
                    job, one, parts.model, parts.preprocess, state.adapter, parts.test
                ).accuracy
    return Row(
        round=result.round,
        decisions=result.decisions,
        left_out=allotment.left_out,
        samples=result.samples,
        loss=result.loss,
        traffic={
            device: [t.activations, t.gradients, t.adapter_down, t.adapter_up]
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
        planned_s=allotment.planned_s,
        ste=allotment.ste,
        ste_bound=allotment.ste_bound,
    )


def typical(decisions: Iterable[Decision]) -> Decision:
    """The decision in the middle of a round's, from the fewest tokens and bits to the most."""

    def size(one: Decision) -> float:
        return one.bits_up * (math.inf if one.tokens is None else one.tokens)

    ranked = sorted(decisions, key=size)
    return ranked[len(ranked) // 2]


def _evaluate(job: Job, parts: Parts, state: State) -> list[Evaluation]:
    """The aggregated model's evaluation, or each device's own where nothing is aggregated."""
    adapters = [state.adapter]
    if job.method.aggregate == "none" and not job.method.pooled:
        adapters = [state.kept.get(i, state.adapter) for i in range(job.devices.count)]
    return [evaluate(parts.model, parts.preprocess, a, parts.test) for a in adapters]


def _export(folder: Path, job: Job, parts: Parts, state: State) -> None:
    """The global adapter, or one for each device where each keeps its own, in PEFT's format."""
    if job.method.aggregate == "none" and not job.method.pooled:
        for index, adapter in sorted(state.kept.items()):
            save_adapter(adapter, parts.model, folder / f"device-{index:04d}")
    else:
        save_adapter(state.adapter, parts.model, folder)


def _append(path: Path, row: Row) -> None:
    with path.open("a") as file:
        file.write(row.to_json() + "\n")
        file.flush()
        os.fsync(file.fileno())


def _draw(folder: Path, job: Job, rows: list[Row]) -> None:
    draw_curves({job.method.name: [curve_of(rows)]}, folder / "figures")


def draw_curves(found: Mapping[str, Sequence[curves.Curve]], folder: Path) -> None:
    """Accuracy by round and by all that the runs spent."""
    curves.accuracy_by_round(found, folder / "accuracy-by-round.png")
    every = [curve for given in found.values() for curve in given]
    for amount in curves.AMOUNTS:
        # Runs without a world have no seconds; a lone local method sends nothing.
        if any(sum(getattr(curve, amount)) for curve in every):
            curves.accuracy_by(amount, found, folder / f"accuracy-by-{amount[:-1]}.png")


def curve_of(rows: list[Row]) -> curves.Curve:
    """Accuracy by round and by what was spent so far, in the rounds that were evaluated."""
    megabytes = np.cumsum([(row.up_bytes + row.down_bytes) / 1e6 for row in rows])
    seconds = np.cumsum([row.virtual_s or 0.0 for row in rows])
    joules = np.cumsum([sum(row.joules.values()) for row in rows])
    kept = [i for i, row in enumerate(rows) if row.accuracy is not None]
    return curves.Curve(
        [rows[i].round + 1 for i in kept],
        [float(rows[i].accuracy or 0.0) for i in kept],
        megabytes[kept].tolist(),
        seconds[kept].tolist(),
        joules[kept].tolist(),
    )
