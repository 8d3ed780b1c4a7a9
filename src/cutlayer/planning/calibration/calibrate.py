"""`cutlayer calibrate`: measures how much of a model's output survives the cut; keeps a record.

The grid of cuts, tokens and bits is chosen here; cut_survey.py measures it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from cutlayer import __version__
from cutlayer.data.dataset import Dataset, stratified
from cutlayer.data.sources import load_calibration
from cutlayer.errors import JobError
from cutlayer.fingerprint import of_file
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.export import WEIGHTS, load_adapter
from cutlayer.model.families import ModelSpec, describe
from cutlayer.model.framing import fit_for
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter
from cutlayer.model.weights import load_model
from cutlayer.planning.calibration import cut_survey
from cutlayer.planning.calibration.record import (
    NAME,
    Calibration,
    cache_file,
    subject_of,
    write_calibration,
)
from cutlayer.planning.calibration.record_file import make_folder
from cutlayer.planning.calibration.survey_codecs import FIT_SAMPLES
from cutlayer.planning.calibration.survey_result import Grid
from cutlayer.programs.packages import blocks_for
from cutlayer.seeds import numpy_rng
from cutlayer.settings.allocation import RATES
from cutlayer.settings.precision import Precision
from cutlayer.train.bare_blocks import trained_before
from cutlayer.train.check_light import check_precisions
from cutlayer.train.compute import find_compute
from cutlayer.train.read_conditions import patches_a_side

BITS = (2, 4, 8, 32)
SAMPLES = 128
HEAD_SAMPLES, HEAD_SAMPLES_A_CLASS = 256, 8

Number = TypeVar("Number", int, float)

Progress = Callable[[str, int, int], None]
"""Takes the name of the present stage, its steps that are done, and the number of its steps."""


def calibrate(
    job: Job,
    *,
    samples: int | None = None,
    cuts: Sequence[int] | None = None,
    tokens: Sequence[int | None] | None = None,
    bits: Sequence[float] | None = None,
    adapter: str | Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Calibration:
    """Measure the job's model on `samples` samples of its calibration data; cache the record.

    job: says model, data and quantiser. progress: hears how far the measuring is.
    Returns the record of devices that compute in float32; for each other precision that the job
    allows (method.allocation.precisions) another record is cached.

    samples: None for 128, or half of what there is. The calibration data (`data.calibration`) are
    neither trained nor tested on.

    cuts, tokens (None among them: all), bits: the grid, see `choose_grid`; with a fitted codec,
    bits are rates, and the codec is fitted to other samples of the calibration data. adapter: the
    folder of a trained adapter, measured in place of the pretrained model; without one, a linear
    head is fitted to other samples of the calibration data, so that there are predictions to
    compare. say: takes one line on what was loaded.
    Raises JobError, DataError, ModelError or RunError, each with one sentence.
    """
    found = calibrate_in(
        job.method.allocation.precisions,
        job,
        samples=samples,
        cuts=cuts,
        tokens=tokens,
        bits=bits,
        adapter=adapter,
        progress=progress,
        say=say,
    )
    return found["float32"]


def calibrate_in(
    precisions: Sequence[Precision],
    job: Job,
    *,
    like: Calibration | None = None,
    samples: int | None = None,
    cuts: Sequence[int] | None = None,
    tokens: Sequence[int | None] | None = None,
    bits: Sequence[float] | None = None,
    adapter: str | Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[Precision, Calibration]:
    """As `calibrate`, in some of the precisions that the job allows: the record of each.

    like: a record whose grid and samples are taken, so that the two can be compared.
    Raises JobError if it was measured with a trained adapter.
    """
    progress = progress or (lambda what, done, steps: None)
    if like is not None:
        if like.adapter is not None:
            raise JobError(
                "method.allocation.precisions: one was calibrated with a trained adapter, and "
                f"{' and '.join(precisions)} not: run cutlayer calibrate --adapter with this job"
            )
        samples, cuts, tokens, bits = like.samples, like.cuts, like.tokens, like.bits
        job = job.model_copy(update={"seed": like.seed})  # which draws the samples
    spec = describe(job.model)
    check_precisions(job, spec)
    fits = job.method.split and job.method.uplink.codec == "klt"
    if fits:
        bits = bits or job.method.allocation.rates or RATES
    together = fits and patches_a_side(job, spec, job.cut) > 0
    if together and tokens is None:
        tokens = [None]
    grid = choose_grid(spec, cuts, tokens, bits, fits)
    if together and len(grid.tokens) > 1:
        raise JobError(
            "method.uplink.spatial: patches are transformed together, which needs all of them: "
            "calibrate with --tokens all, or set it to false"
        )
    # These samples are neither tested on nor held by devices.
    train = load_calibration(job.data, job.seed, fit_for(spec))
    if say is not None and train.report is not None:
        say(train.report.line)
    if samples is None:
        samples = min(SAMPLES, max(1, len(train) // 2))
    classes = len(train.classes)
    wanted = max(HEAD_SAMPLES, HEAD_SAMPLES_A_CLASS * classes) if adapter is None else 0
    measured, fitted = _draw(
        train,
        samples,
        classes if adapter is None else int(fits),
        max(wanted, FIT_SAMPLES if fits else 0),
        job.seed,
    )
    model = load_model(job.model, len(train.classes), job.seed, train=job.method.train)
    model.to(find_compute(job.training.compute))
    preprocess = Preprocessor(model.spec, model.compute)
    blocks, records = blocks_for(job, model), {}
    subjects = {one: subject_of(job, one) for one in precisions}
    for subject in subjects.values():
        assert subject is not None  # model and data were just read
        make_folder(cache_file(subject), NAME)  # what is in the way shows before the work
    with torch.inference_mode():
        if adapter is None:
            trained = cut_survey.fit(model, preprocess, fitted, job.seed, progress)
        else:
            trained = load_adapter(adapter, model)
            _check_bare(adapter, trained, model, max(grid.cuts), precisions)
    for precision, subject in subjects.items():
        assert subject is not None
        with torch.inference_mode():
            device = cut_survey.DevicePart(model, precision, blocks)
            found = cut_survey.CutSurvey(job, device, trained, grid, measured, fitted).run(
                preprocess, progress
            )
        records[precision] = Calibration(
            **vars(found),
            subject=subject,
            samples=samples,
            head_samples=len(fitted) if adapter is None else 0,
            batch_size=job.training.batch_size,
            seed=job.seed,
            adapter=None if adapter is None else of_file(Path(adapter) / WEIGHTS),
            version=__version__,
        )
        write_calibration(records[precision], cache_file(subject))
    return records


def _check_bare(
    folder: str | Path, adapter: Adapter, model: CutModel, cut: int, precisions: Sequence[Precision]
) -> None:
    """Raise JobError if blocks before `cut` were trained but are to run as programs, without it."""
    others = [one for one in precisions if one != "float32"]
    name = trained_before(model, adapter, cut) if others else None
    if name is not None:
        raise JobError(
            f"adapter: {folder} has trained {name}, but devices that compute in "
            f"{' or '.join(others)} run their blocks without adapters: take earlier cuts, an "
            "adapter trained with method.device frozen at the same cut, or float32 alone"
        )


def choose_grid(
    spec: ModelSpec,
    cuts: Sequence[int] | None = None,
    tokens: Sequence[int | None] | None = None,
    bits: Sequence[float] | None = None,
    rates: bool = False,
) -> Grid:
    """The grid asked for, with all tokens and 32 bits added.

    By default: the job's own cut, cuts after the embedding, blocks 1 and 2 and each quarter of the
    depth, short of the whole model; six numbers of tokens in equal ratios from a twelfth of N to
    N; 2, 4, 8 and 32 bits. rates: `bits` are rates of a fitted codec. Raises JobError for a cut or
    a number of tokens that the model does not have, and for bits that cannot be sent.
    """
    if spec.why_all_tokens is not None:
        raise JobError(
            f"model.path: {spec.path} {spec.why_all_tokens}: take a model whose tokens can be left "
            "out"
        )
    depth, N = spec.depth, spec.patches
    if cuts is None:
        quarters = (math.floor(depth * quarter / 4 + 0.5) for quarter in (1, 2, 3))
        cuts = [cut for cut in (0, 1, 2, *quarters, spec.cut) if 0 <= cut < depth]
    if tokens is None:
        tokens = [max(1, round(N * 12 ** (step / 5 - 1))) for step in range(6)]
    kept = {N if count is None else count for count in tokens}
    bits = BITS if bits is None else bits
    for cut in cuts:
        if not 0 <= cut <= depth:
            raise JobError(
                f"cuts: {cut} is not within the {depth} blocks of {spec.path}: take 0 to {depth}"
            )
    for count in kept:
        if not 1 <= count <= N:
            raise JobError(
                f"tokens: {count} of the {N} tokens of {spec.path} cannot be kept: take 1 to {N}, "
                "or all"
            )
    for width in bits:
        if rates and not (0.01 <= width <= 8 or width == 32):
            raise JobError(f"bits: klt cannot send {width:g} bits a value: take 0.01 to 8")
        if not rates and not (width in range(1, 9) or width in (16, 32)):
            raise JobError(f"bits: {width:g} bits cannot be packed: take 1 to 8, 16 or 32")
    return Grid(_ascending(cuts), _ascending({*kept, N}), _ascending({*bits, 32}))


def _ascending(numbers: Iterable[Number]) -> tuple[Number, ...]:
    return tuple(sorted(set(numbers)))


def _draw(
    train: Dataset, samples: int, spared: int, wanted: int, seed: int
) -> tuple[Dataset, Dataset]:
    """`samples` samples to measure on, and up to `wanted` others to fit the head and the codec to.

    Classes are in proportion. spared: the fewest others that are needed. Raises JobError when there
    are too few.
    """
    most = len(train) - spared
    if not 1 <= samples <= most:
        why = f", less {spared} to fit on" if spared else ""
        raise JobError(
            f"samples: {samples} cannot be taken from the {len(train)} that are there to calibrate "
            f"on{why}: "
            + (f"take 1 to {most}, or " if most > 0 else "")
            + "name data of their own in data.calibration"
        )
    chosen = stratified(train.labels, samples, numpy_rng(seed, "calibrate", "measured"))
    if not wanted:
        return train.subset(chosen), train.subset([])
    others = np.setdiff1d(np.arange(len(train)), chosen)
    size = min(len(others), wanted)
    fitted = stratified(train.labels[others], size, numpy_rng(seed, "calibrate", "fitted"))
    return train.subset(chosen), train.subset(others[fitted])
