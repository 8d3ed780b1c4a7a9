"""Runs a job as the edge server of a network, which devices join."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cutlayer.errors import CutlayerError, JobError, RunError
from cutlayer.fingerprint import of_parts
from cutlayer.job import Job, brief_job
from cutlayer.model.part import write_part
from cutlayer.network.file_transfer import describe_files
from cutlayer.network.part_files import part_of
from cutlayer.network.server.claims import Claims
from cutlayer.network.server.connected_devices import ConnectedDevices
from cutlayer.network.server.handout import PIECE_BYTES, JobOffer
from cutlayer.network.server.light_offers import LightOffers, why_none
from cutlayer.network.server.logged_progress import LoggedProgress
from cutlayer.network.server.remote_fleet import RemoteFleet
from cutlayer.network.server.roster import Roster
from cutlayer.network.server.timeouts import Timeouts
from cutlayer.network.transport.address import check_free
from cutlayer.network.transport.event_log import EventLog
from cutlayer.network.transport.identity import Identity
from cutlayer.network.transport.limits import Limits
from cutlayer.network.transport.messages import PROTOCOL, Task
from cutlayer.programs.packages import blocks_for
from cutlayer.record.checkpoint import RunState
from cutlayer.record.folder import JOB_FILE, ROSTER_FILE
from cutlayer.record.rows import Row
from cutlayer.record.writing import new_folder, writing
from cutlayer.rounds.loop import run_rounds
from cutlayer.rounds.progress import Progress, Silent
from cutlayer.rounds.result import Result
from cutlayer.rounds.run_folder import begin_run, saved_run
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.parts import Parts, load_parts
from cutlayer.train.ways import WAYS

PART_FOLDER = "part"


@dataclass(frozen=True)
class ServeOptions:
    """The address at which a server receives devices, its keys and its timeouts."""

    address: str = "127.0.0.1:7311"
    """HOST:PORT to listen at; port 0 takes any free one."""

    identity: Identity | None = None
    """The server's key and certificate. None: any device may join, under any name, but only at a
    loopback address.
    """

    insecure: bool = False
    """Whether a server without an identity may listen at any address, not only a loopback one."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    """How long the run waits for its devices."""

    metrics: str | None = None
    """HOST:PORT at which Prometheus finds the server's figures; None: they are not served."""

    log: str | Path | None = None
    """A file that gets a JSON object for each event, or "-" for standard error; None: no log."""

    virtual: bool = False
    """Whether rounds are allocated and timed by the job's world, as in a simulation, instead of by
    the measurements of devices and server.
    """


def serve(
    job: Job,
    *,
    options: ServeOptions | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    on_port: Callable[[int], None] | None = None,
) -> Result:
    """Train `job` with the devices that join, and write its run folder.

    job: what to train. progress: hears what happens (None: nobody does).
    options: where and how (None: on this machine alone, without keys). out: the run folder (None: a
    new one below runs/). on_port: called with the port once devices can connect. Returns when the
    job is done; it also works in a notebook, where an event loop runs already.
    Raises as `simulate` does, and NetworkError.
    """
    options = options or ServeOptions()
    _check(job, options)
    if out is not None and (Path(out) / JOB_FILE).exists():
        raise RunError(
            f"run folder: {out} already holds a run: give another with --out, or continue it "
            f"with cutlayer serve --resume {out}"
        )
    parts = load_parts(job, progress.say if progress else None)
    parts = replace(parts, blocks=blocks_for(job, parts.model))
    _check_drawn(job, parts)
    folder = Path(out) if out is not None else new_folder(job.method.name)
    state = begin_run(folder, job, parts, elsewhere=True)
    return _open(folder, job, parts, state, [], options, progress, on_port)


def resume_serving(
    folder: str | Path,
    *,
    rounds: int | None = None,
    devices: int | None = None,
    options: ServeOptions | None = None,
    progress: Progress | None = None,
    on_port: Callable[[int], None] | None = None,
) -> Result:
    """Go on with the run in `folder` after its last finished round; devices join again.

    folder: of the run. options, progress, on_port: as of `serve`.
    rounds: of the whole run, see `cutlayer.resume`. devices: of the fleet from now on, where it is
    to grow. Raises as `serve`.
    """
    options = options or ServeOptions()
    if options.virtual and devices is not None:
        raise JobError(
            f"devices.count: {devices} with --virtual, but the job's world was drawn for the "
            "devices it had: leave one of them out"
        )
    say = (progress or Silent()).say
    job, parts, state, rows = saved_run(Path(folder), say, rounds, devices=devices)
    _check(job, options)
    parts = replace(parts, blocks=blocks_for(job, parts.model))
    return _open(Path(folder), job, parts, state, rows, options, progress, on_port)


def _check(job: Job, options: ServeOptions) -> None:
    """Refuse what cannot be served, before a folder is made. Raises JobError and NetworkError."""
    if job.method.pooled:
        raise JobError(
            f"method.name: {job.method.name} trains in one place, so no device takes part: run "
            "cutlayer simulate"
        )
    for setting, value in job.method.code_on_devices.items():
        raise JobError(
            f"{setting}: {value!r} is code, and devices run none that a server names: take one of "
            "the built-in ones, or run cutlayer simulate"
        )
    if options.virtual and job.world is None:
        raise JobError("--virtual: the job has no world: add a world section")
    counted = job.world is not None and (job.world.energy.forward or job.world.energy.backward)
    if counted and not options.virtual:
        raise JobError(
            "world.energy: the energy that a real device spends on computing is not measured: "
            "leave forward and backward out, or use the job's world with --virtual"
        )
    if job.data.partition.held_out:
        raise JobError(
            f"data.partition.held_out: {job.data.partition.held_out} but devices over a network "
            "hold nothing out: leave it at 0, or run cutlayer simulate"
        )
    if job.devices.drop_out:
        raise JobError(
            f"devices.drop_out: {job.devices.drop_out:g} but real devices are lost by themselves: "
            "leave it at 0, or run cutlayer simulate"
        )
    check_free(options.address, "address")
    if options.metrics is not None:
        check_free(options.metrics, "--metrics")


def _check_drawn(job: Job, parts: Parts) -> None:
    """Raise JobError if devices would draw modules anew that model.adapter's folder brings."""
    if job.model.adapter is not None and parts.model.drawn and not job.method.split:
        raise JobError(
            f"model.adapter: {job.model.path} lacks {parts.model.drawn[0]}, which the devices of "
            f"method {job.method.name} would draw anew: run cutlayer simulate, or take a split "
            "method"
        )


def _open(
    folder: Path,
    job: Job,
    parts: Parts,
    state: RunState,
    rows: list[Row],
    options: ServeOptions,
    progress: Progress | None,
    on_port: Callable[[int], None] | None,
) -> Result:
    """Receive devices and run the remaining rounds."""
    log = EventLog(options.log)
    with writing(folder):
        roster = Roster(folder / ROSTER_FILE, job.devices.count)
        roster.write()
        offer = _offer(folder / PART_FOLDER, job, parts)
    connected_devices = ConnectedDevices(offer, roster, log)
    watched = LoggedProgress(progress or Silent(), log)
    reason, done = "the server was stopped", False
    connected_devices.open(
        options.address, options.identity, limits_of(job, parts), options.insecure
    )
    try:
        log.write("listening", port=connected_devices.listener.port, folder=str(folder))
        if on_port is not None:
            on_port(connected_devices.listener.port)
        watched.measure(connected_devices.listener, options.metrics, lambda: list(roster.numbers))
        timeouts = options.timeouts
        if job.world is not None and job.world.deadline_s is not None and not options.virtual:
            shorter = min(timeouts.round_s, job.world.deadline_s)
            timeouts = replace(timeouts, round_s=shorter)
        light = LightOffers(job, parts, offer.task, offer.folder)
        fleet = RemoteFleet(
            folder,
            job,
            parts,
            connected_devices,
            timeouts,
            watched,
            real=not options.virtual,
            light=light,
        )
        result = run_rounds(folder, job, parts, fleet, state, rows, watched)
        done = True
    except CutlayerError as error:
        reason = str(error)
        raise
    finally:
        log.write("closing", reason="the job is done" if done else reason)
        connected_devices.close(reason, done, options.timeouts.farewell_s)
        watched.close()
    shutil.rmtree(folder / PART_FOLDER)
    return result


def _offer(folder: Path, job: Job, parts: Parts) -> JobOffer:
    """The task of devices, with the files of their part of the model, written to `folder`."""
    reach = latest_cut(job, parts.model.spec.depth)
    model = job.model.model_copy(update={"cut": reach})
    files = describe_files(write_part(folder, model, job.seed, part_of(job)))
    text, classes = brief_job(job), list(parts.train.classes)
    hashes = [f"{file.name} {file.sha256}" for file in files]
    digest = of_parts(f"protocol {PROTOCOL}", text, *classes, reach, *hashes)
    task = Task(0, text, digest, classes, reach, files)
    return JobOffer(task, folder, Claims(job, parts).check_ready, why_none(job, parts))


def latest_cut(job: Job, depth: int) -> int:
    """The most blocks that a device of the job may have to run."""
    if not job.method.split:
        return depth
    chosen = job.method.allocation
    if chosen.solver in ("asfl", "asfv", "auto") or ":" in chosen.solver:
        return max(chosen.cuts, default=depth)
    return job.cut


def limits_of(job: Job, parts: Parts) -> Limits:
    """Limits of connections; the largest frame is the largest that the job can need."""
    largest = frame_limit(parts.model, job.training.batch_size)
    spec = parts.model.spec
    fitted = [job.cut] if job.method.split and job.method.uplink.codec == "klt" else []
    fitted += [spec.end if way.tail else job.cut for way in WAYS if way.is_fitted(job)]
    for cut in fitted:
        width = spec.width_at(cut)
        largest = max(largest, 4 * width * (spec.tokens_at(cut) + 1 + width) + 2**17)
    return Limits(max_frame_bytes=max(largest, PIECE_BYTES))
