"""The trained model of a run folder, ready to compute."""

from dataclasses import dataclass
from pathlib import Path

from cutlayer.errors import JobError, RunError
from cutlayer.job import Job, load_job
from cutlayer.model.class_names import class_names
from cutlayer.model.cut import CutModel
from cutlayer.model.export import load_adapter
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter
from cutlayer.model.weights import load_model
from cutlayer.own_code import refresh
from cutlayer.programs.packages import blocks_for
from cutlayer.record.checkpoint import load_state
from cutlayer.record.folder import ADAPTER_FOLDER, JOB_FILE, STATE_FILE, device_folder
from cutlayer.record.row_lines import read_rows
from cutlayer.rounds.measure_round import typical
from cutlayer.train.compute import find_compute
from cutlayer.train.evaluate import LogitsOf, through_cut, unsplit
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.task import Task, task_of
from cutlayer.train.ways import FEATURES


@dataclass(frozen=True, eq=False)
class Trained:
    """A run's job, its model with the adapter that it exported, and the names of its classes."""

    folder: Path
    job: Job
    model: CutModel
    preprocess: Preprocessor
    adapter: Adapter
    classes: tuple[str, ...]

    @property
    def task(self) -> Task:
        """The task for which the model was trained."""
        return task_of(self.job, self.model.spec)

    def logits_of(self, cut: bool) -> LogitsOf:
        """Computes logits: with the unsplit model, or (cut) with device and server together.

        The latter use the cut, tokens, bits and precision of the middle decision of the last round
        in which devices took part. Raises JobError if the method does not cut the model, RunError
        without such a round.
        """
        if not cut:
            return unsplit(self.model, self.preprocess, self.adapter)
        if not self.job.method.split:
            raise JobError(
                f"--through-cut: method {self.job.method.name} does not cut the model: leave it out"
            )
        rows = [row for row in read_rows(self.folder) if row.decisions]
        if not rows:
            raise RunError(f"--through-cut: in {self.folder} no device took part: leave it out")
        decision = typical(rows[-1].decisions.values(), self.job.method)
        fitted = self.job.method.uplink.codec == "klt"
        saved = {}
        if fitted or FEATURES.is_fitted(self.job):
            saved = load_state(self.folder / STATE_FILE).coding
        coding = ServerCoding(self.job, self.model.spec, saved)
        if fitted and coding.codec_for(decision) is None:
            raise RunError(f"--through-cut: {self.folder} has no basis for its codec: leave it out")
        plain = decision.precision == "float32"  # then nobody needs the packages of programs
        blocks = None if plain else blocks_for(self.job, self.model)
        given = self.model, self.preprocess, self.adapter, coding, blocks
        return through_cut(self.job, self.task, decision, *given)


def load_trained(
    folder: str | Path, device: int | None = None, whole_weights: bool = False
) -> Trained:
    """Read the model of a finished run back, without its data.

    device: the device whose adapter is read, if each device keeps its own. whole_weights: load the
    checkpoint's own weights, even if the run had them in few bits. Raises RunError for a folder
    without a finished run, JobError, or ModelError.
    """
    folder = Path(folder)
    if not (folder / JOB_FILE).is_file():
        raise RunError(f"RUN: {folder} holds no run: give the folder of a run")
    job = load_job(folder / JOB_FILE)
    refresh(job.own_code)
    place = _adapter_folder(folder, job, device)
    if not place.is_dir():
        raise RunError(
            f"RUN: {folder} has no trained adapter yet: finish it with --resume {folder}"
        )
    try:
        classes = class_names(place)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"RUN: the names of the classes in {place} cannot be read ({error}): write them again "
            f"with cutlayer simulate --resume {folder}"
        ) from None
    if classes is None:
        raise RunError(
            f"RUN: {place} does not name its classes: write them with cutlayer simulate "
            f"--resume {folder}"
        )
    if whole_weights:
        section = job.model.model_copy(update={"frozen_bits": 32})
        job = job.model_copy(update={"model": section})
    model = load_model(job.model, len(classes), job.seed, train=job.method.train)
    model.to(find_compute(job.training.compute))
    adapter = load_adapter(place, model, classes, "RUN")
    return Trained(
        folder, job, model, Preprocessor(model.spec, model.compute), adapter, tuple(classes)
    )


def _adapter_folder(folder: Path, job: Job, device: int | None) -> Path:
    """The folder of the adapter. Raises JobError if a device is needed and not named, or named and
    not needed."""
    own = job.method.aggregate == "none" and not job.method.pooled
    if own and device is None:
        raise JobError(
            f"--device: each device of method {job.method.name} keeps an adapter of its own: name "
            f"one, 0 to {job.devices.count - 1}"
        )
    if not own and device is not None:
        raise JobError(
            f"--device: the devices of method {job.method.name} share one adapter: leave it out"
        )
    place = folder / ADAPTER_FOLDER
    if device is None:
        return place
    chosen = place / device_folder(device)
    if place.is_dir() and not chosen.is_dir():
        there = ", ".join(str(int(one.name.rpartition("-")[2])) for one in sorted(place.iterdir()))
        raise JobError(f"--device: {device} has no adapter in {folder}: take one of {there}")
    return chosen
