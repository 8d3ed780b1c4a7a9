"""Everything a run needs before its first round, made from a job."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cutlayer.data.dataset import Dataset
from cutlayer.data.label_counts import LabelCounts
from cutlayer.data.partition import divide
from cutlayer.data.sources import load
from cutlayer.errors import ModelError
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.export import load_adapter
from cutlayer.model.families import describe
from cutlayer.model.framing import fit_for
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter
from cutlayer.model.low_bits import check_low_bits
from cutlayer.model.weights import load_model
from cutlayer.seeds import derive
from cutlayer.train.bare_blocks import trained_before
from cutlayer.train.check import check
from cutlayer.train.cohort import draw_cohort
from cutlayer.train.compute import find_compute, set_precision, why_slow
from cutlayer.train.device import Device
from cutlayer.train.device_blocks import DeviceBlocks
from cutlayer.train.label_sharing import SharedLabels
from cutlayer.train.noise import with_label_noise
from cutlayer.train.server import Server
from cutlayer.train.server_coding import ServerCoding
from cutlayer.train.task import task_of


@dataclass(frozen=True)
class Parts:
    """What all methods of a comparison share: frozen model, data, and each device's samples.

    shares: indices of the samples of `train` that each device trains on [M]; held_out: of those
    that it is tested on [M]. counts: number of samples to train on, by device and class.
    blocks: run devices' blocks in other numbers than float32; None where nobody made programs.
    """

    model: CutModel
    preprocess: Preprocessor
    train: Dataset
    test: Dataset
    shares: Sequence[np.ndarray]
    held_out: Sequence[np.ndarray]
    counts: LabelCounts
    blocks: DeviceBlocks | None = None


def load_parts(job: Job, say: Callable[[str], object] | None = None) -> Parts:
    """Check the job against its model's config, then load data and model.

    say: takes a line on what data were loaded, and one if the job's precision is slow here. Raises
    JobError, DataError or ModelError.
    """
    spec = describe(job.model)
    check(job, spec)
    train, test = load(job.data_in_use, job.seed, fit_for(spec))
    if say is not None and train.report is not None:
        say(train.report.line)
    shares, held_out = divide(train.labels, job.data.partition, job.devices.count, job.seed)
    classes = len(train.classes)
    task_of(job, replace(spec, num_classes=classes))
    counts = LabelCounts(train.labels, shares, classes)
    model = _load(job, classes)
    slow = why_slow(job.training.precision, model.compute)
    if say is not None and slow is not None:
        say(slow)
    preprocess = Preprocessor(model.spec, model.compute)
    for data in (train, test):
        if spec.parts.language or data.has_passages:
            preprocess.check(data.inputs)
    return Parts(model, preprocess, train, test, shares, held_out, counts)


def parts_for(job: Job, parts: Parts) -> Parts:
    """`parts` for another method of the same job; a new model if the method trains differently."""
    if parts.model.train == job.method.train:
        place_model(job, parts.model)
        return parts
    return replace(parts, model=_load(job, len(parts.train.classes)))


def _load(job: Job, classes: int) -> CutModel:
    model = load_model(job.model, classes, job.seed, train=job.method.train)
    return place_model(job, model)


def place_model(job: Job, model: CutModel) -> CutModel:
    """`model` on the torch device of a job, in its precision, compiled or not. Raises JobError."""
    device = find_compute(job.training.compute)
    if job.model.frozen_bits < 32:
        check_low_bits(device)
    set_precision(job.training.precision, device)
    training = job.training
    model.to(device).use(training.precision, training.checkpointing, training.packing)
    return model.compile(training.compile)


def first_adapter(job: Job, model: CutModel, classes: Sequence[str] | None = None) -> Adapter:
    """The adapter every device starts from: a new one, or that of model.adapter.

    classes: of the data; an adapter that names classes must name the same. Raises ModelError.
    """
    if job.model.adapter is None:
        return model.new_adapter(derive(job.seed, "adapter"))
    adapter = load_adapter(job.model.adapter, model, classes, "model.adapter")
    _check_bare_blocks(job, model, adapter)
    return adapter


def _check_bare_blocks(job: Job, model: CutModel, adapter: Adapter) -> None:
    """Raise ModelError if the adapter has trained blocks that frozen devices run without adapters.

    Checks only the blocks that every device runs, whatever cut it gets.
    """
    if not job.method.split or job.method.device != "frozen":
        return
    chosen = job.method.allocation
    moves = chosen.solver in ("asfl", "asfv", "auto") or ":" in chosen.solver
    name = trained_before(model, adapter, min(chosen.cuts, default=0) if moves else job.cut)
    if name is not None:
        raise ModelError(
            f"model.adapter: {job.model.adapter} has trained {name}, but the devices of method "
            f"{job.method.name} run their blocks without adapters: give one trained with "
            "method.device frozen at the same cut, or take method.device trained"
        )


def make_server(
    job: Job, parts: Parts, adapter: Adapter, bare: int = 0, coding: ServerCoding | None = None
) -> Server:
    """The server with its global adapter; its first `bare` blocks carry no adapter.

    coding: the codec of activations over all rounds; None: a new one, as in a first round.
    """
    return Server(job, parts.model, adapter, bare, coding)


def make_device(job: Job, parts: Parts, index: int) -> Device:
    """Device `index` with its share of the data; all shares when one party holds the data."""
    if not job.method.pooled:
        data = parts.train.subset(parts.shares[index])
    elif job.data.partition.held_out:
        data = parts.train.subset(np.sort(np.concatenate(parts.shares)))
    else:
        data = parts.train
    data = with_label_noise(data, job, index)
    return Device(index, data, job, parts.model, parts.preprocess, blocks=parts.blocks)


def samples_a_round(job: Job, parts: Parts, round: int) -> int | None:
    """How many samples one party with all the data trains on: those that a cohort would hold."""
    if not job.method.pooled:
        return None
    split = job.model_copy(update={"method": job.method.model_copy(update={"pooled": False})})
    return sum(len(parts.shares[index]) for index in draw_cohort(split, round))


def labels_of(job: Job, parts: Parts) -> SharedLabels:
    """What the server knows of the devices' labels, with the noise that the job asks for."""
    epsilon = job.generated.share_epsilon if job.generated else None
    return SharedLabels(parts.counts, epsilon, job.seed)
