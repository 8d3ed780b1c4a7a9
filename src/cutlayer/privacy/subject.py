"""What an audit attacks: a job before it is trained, or the model of a finished run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cutlayer.data.dataset import Dataset
from cutlayer.errors import JobError
from cutlayer.fingerprint import of_file
from cutlayer.inference.trained import load_trained
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.export import WEIGHTS
from cutlayer.model.families import ModelSpec, describe
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter
from cutlayer.model.weights import load_model
from cutlayer.planning.calibration import cut_survey
from cutlayer.planning.calibration.calibrate import choose_grid
from cutlayer.planning.calibration.record import Subject, subject_of
from cutlayer.planning.calibration.survey_result import Grid
from cutlayer.planning.leakage.record import RUN_FILE, Members, cache_file, first_weights
from cutlayer.privacy.members import tell_members
from cutlayer.record.folder import ADAPTER_FOLDER, device_folder
from cutlayer.record.row_lines import read_rows
from cutlayer.rounds.measure_round import typical
from cutlayer.seeds import derive
from cutlayer.train.compute import find_compute
from cutlayer.train.parts import first_adapter
from cutlayer.train.read_conditions import gradients_return

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Asked:
    """The grid that was asked for; None where nothing was."""

    cuts: Sequence[int] | None
    tokens: Sequence[int | None] | None
    bits: Sequence[float] | None


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with an adapter; the hash of the adapter's weights, where it was trained before, and
    what it says of its members, where a run trained it.
    """

    model: CutModel
    preprocess: Preprocessor
    adapter: Adapter
    weights: str | None = None
    members: Members | None = None


@dataclass(frozen=True, eq=False)
class AuditSubject:
    """A job, the grid, what it is known by, where the record goes, and how the model is loaded."""

    job: Job
    grid: Grid
    key: Subject
    record: Path
    load: Callable[[Dataset, Progress], Loaded]


def subject_of_job(job: Job, asked: Asked) -> AuditSubject:
    """A job as it is before any training. Raises JobError, ModelError or RunError."""
    grid = _grid(job, _check(job), asked)
    key = subject_of(job)
    if key is None:
        raise JobError("model.path, data.path: an audit needs both on this machine: put them there")

    weights = first_weights(job)

    def load(public: Dataset, progress: Progress) -> Loaded:
        model = load_model(job.model, len(public.classes), job.seed, train=job.method.train)
        model.to(find_compute(job.training.compute))
        preprocess = Preprocessor(model.spec, model.compute)
        if weights is not None:
            return Loaded(model, preprocess, first_adapter(job, model, public.classes), weights)
        if not gradients_leave(job):  # then no attack needs predictions
            return Loaded(model, preprocess, model.new_adapter(derive(job.seed, "adapter")))
        with torch.no_grad():
            adapter = cut_survey.fit(model, preprocess, public, job.seed, progress)
        return Loaded(model, preprocess, adapter)

    return AuditSubject(job, grid, key, cache_file(key, weights), load)


def subject_of_run(folder: Path, asked: Asked, device: int | None) -> AuditSubject:
    """The trained model of a finished run. Raises JobError, ModelError, DataError or RunError."""
    trained = load_trained(folder, device)
    job = trained.job
    spec = _check(job)
    decided = [one for row in read_rows(folder) for one in row.decisions.values()]
    if decided:
        usual = typical(decided, job.method)
        asked = Asked(
            asked.cuts or [usual.cut],
            asked.tokens or [usual.tokens],
            asked.bits or [usual.value_bits(job.method)],
        )
    grid = _grid(job, spec, asked)
    key = subject_of(job)
    if key is None:
        raise JobError("model.path, data.path: an audit needs both on this machine: put them there")

    def load(public: Dataset, progress: Progress) -> Loaded:
        progress("telling members", 0, 1)
        members = tell_members(trained, device)
        own = ADAPTER_FOLDER if device is None else f"{ADAPTER_FOLDER}/{device_folder(device)}"
        weights = of_file(folder / own / WEIGHTS)
        return Loaded(trained.model, trained.preprocess, trained.adapter, weights, members)

    return AuditSubject(job, grid, key, folder / RUN_FILE, load)


def gradients_leave(job: Job) -> bool:
    """Whether any gradient crosses: down to devices that train, or up from a tail."""
    return gradients_return(job) or job.has_tail


def _check(job: Job) -> ModelSpec:
    """Raise JobError where nothing crosses a cut, or no image does."""
    spec = describe(job.model)
    if not job.method.split:
        raise JobError(
            f"method: {job.method.name} does not cut the model, and no activation crosses: audit "
            "a method that does"
        )
    if spec.modality == "text":
        raise JobError(
            f"model.path: {spec.path} reads texts, and an audit makes images of activations: audit "
            "a model of images"
        )
    return spec


def _grid(job: Job, spec: ModelSpec, asked: Asked) -> Grid:
    """The grid of an audit; see `audit` for what it has by default."""
    fitted, N = job.method.uplink.codec == "klt", spec.patches
    own = job.method.uplink.value_bits
    # Of those that are calibrated by default, so that auto finds both.
    late, few = math.floor(3 * spec.depth / 4 + 0.5), max(1, round(N * 12**-0.6))
    cuts = asked.cuts or [0, min(job.cut, spec.depth - 1), late]
    tokens = asked.tokens or [few, job.method.tokens.keep]
    bits = asked.bits or [own, 0.25 if fitted else 4]
    return choose_grid(spec, cuts, tokens, [int(b) if b == int(b) else b for b in bits], fitted)
