"""`cutlayer audit`: attacks what crosses the cut of a job, or of a finished run; keeps the table.

subject.py says what is attacked, attacks.py does it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cutlayer import __version__
from cutlayer.data.dataset import Dataset, stratified
from cutlayer.data.sources import load_calibration
from cutlayer.drawing.notebook import paragraphs
from cutlayer.drawing.reconstruction_sheet import draw_sheet
from cutlayer.drawing.style import why_no_figures
from cutlayer.errors import JobError
from cutlayer.job import Job
from cutlayer.planning.calibration.record_file import make_folder, writing
from cutlayer.planning.calibration.survey_codecs import fit_codecs
from cutlayer.planning.leakage.record import NAME, Leakage, write_leakage
from cutlayer.privacy.attacks import Effort, Found, Progress, attack
from cutlayer.privacy.crossing import Victim
from cutlayer.privacy.subject import Asked, gradients_leave, subject_of_job, subject_of_run
from cutlayer.seeds import numpy_rng

_LEAST_PUBLIC = 8


@dataclass(frozen=True)
class Audit:
    """What attacks made of a job or a run, where its record lies, and the sheet of reconstructions
    (None: nothing that draws is installed).

    leakage: the table. record: the JSON file with it. sheet: the PNG file, or None.
    """

    leakage: Leakage
    record: Path
    sheet: Path | None

    def _repr_html_(self) -> str:
        return self.leakage._repr_html_() + paragraphs([f"In {self.record}"])


def audit(
    what: Job | str | Path,
    *,
    cuts: Sequence[int] | None = None,
    tokens: Sequence[int | None] | None = None,
    bits: Sequence[float] | None = None,
    effort: Effort | None = None,
    device: int | None = None,
    out: str | Path | None = None,
    sheet: str | Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Audit:
    """Attack what crosses the cut, as a server could that has the device part; keep the table.

    effort: how many images are attacked, and by how much training (None: see Effort). progress:
    hears how far each attack is. say: takes a line on what was loaded.
    what: a job, attacked as it is before any training, or the folder of a finished run. cuts,
    tokens (None among them: all), bits (of codec klt: rates): the grid, to which all tokens and 32
    bits are added; by default the job's own cut, the first and a late one, with about a quarter
    of the tokens, at its own bits and at 4, and of a run what its last round was decided with.
    Images are those of the job's calibration data (`data.calibration`): some are attacked, and
    decoders are trained on the others. device: of a run, whose adapter, where each keeps its own.
    The record of a job lies in the cache, where `method.allocation.leakage_max` finds it, and that
    of a run in its folder, where `cutlayer report` does. out: a JSON file for the record too.
    sheet: a PNG file for the reconstructions; None: beside the record.
    Raises JobError, DataError, ModelError or RunError, each with one sentence.
    """
    progress, effort = progress or (lambda what, done, steps: None), effort or Effort()
    asked = Asked(cuts, tokens, bits)
    if isinstance(what, Job):
        make = subject_of_job(what, asked)
    else:
        make = subject_of_run(Path(what), asked, device)
    job, grid = make.job, make.grid
    pool = load_calibration(job.data, job.seed)
    if say is not None and pool.report is not None:
        say(pool.report.line)
    public, attacked = _draw(pool, effort, job.seed)
    make_folder(make.record, NAME)  # what is in the way shows before the work, not after
    subject = make.load(public, progress)
    finest = max((rate for rate in grid.bits if rate < 32), default=32.0)
    fitted = fit_codecs(
        job, subject.model, subject.preprocess, subject.adapter, grid.cuts, finest, public
    )
    # Noise that can be repeated, of the size that the job's has.
    private = job.privacy.model_copy(update={"noise_from": "seed"})
    victim = Victim(
        job.model_copy(update={"privacy": private}),
        subject.model,
        subject.preprocess,
        subject.adapter,
        fitted,
        finest,
        len(pool.classes),
    )
    leave = gradients_leave(job)
    found = attack(victim, grid, public, attacked, effort, leave, progress)
    tables: dict[str, Any] = {name: np.round(one, 6) for name, one in found.tables.items()}
    leakage = Leakage(
        grid.cuts,
        grid.tokens,
        grid.bits,
        **tables,
        gradient_labels=found.gradient_labels,
        members=subject.members,
        anchors=found.anchors,
        subject=make.key,
        noise=job.privacy.activation_noise,
        adapter=subject.weights,
        public=len(public),
        attacked=len(attacked),
        inverted=min(effort.inverted, len(attacked)) if effort.inversion_steps else 0,
        decoder_steps=effort.decoder_steps,
        inversion_steps=effort.inversion_steps,
        pixels=found.original.shape[-1],
        seed=job.seed,
        version=__version__,
    )
    drawn = Path(sheet) if sheet is not None else make.record.with_suffix(".png")
    pictures = _draw_sheet(leakage, found, attacked, drawn)
    # Last: whoever finds a record finds its sheet too.
    write_leakage(leakage, make.record)
    if out is not None:
        write_leakage(leakage, out)
    return Audit(leakage, make.record, pictures)


def _draw(pool: Dataset, effort: Effort, seed: int) -> tuple[Dataset, Dataset]:
    """Public samples and attacked ones, none of them both. Raises JobError for too few."""
    if effort.attacked < 2 or effort.attacked > len(pool) - _LEAST_PUBLIC:
        raise JobError(
            f"attacked: {effort.attacked} images cannot be attacked of the {len(pool)} that the "
            f"job's calibration data have: take 2 to {max(2, len(pool) - _LEAST_PUBLIC)}, or name "
            "more in data.calibration"
        )
    chosen = stratified(pool.labels, effort.attacked, numpy_rng(seed, "audit", "attacked"))
    others = np.setdiff1d(np.arange(len(pool)), chosen)
    most = len(others) if effort.public is None else effort.public
    if not _LEAST_PUBLIC <= most <= len(others):
        raise JobError(
            f"public: decoders cannot be trained on {most} images of the {len(others)} that are "
            f"not attacked: take {_LEAST_PUBLIC} to {len(others)}"
        )
    used = stratified(pool.labels[others], most, numpy_rng(seed, "audit", "public"))
    # In an order of chance: a few of the first then hold several classes.
    mixed = numpy_rng(seed, "audit", "order").permutation(chosen)
    return pool.subset(others[used]), pool.subset(mixed)


def _draw_sheet(leakage: Leakage, found: Found, attacked: Dataset, path: Path) -> Path | None:
    if why_no_figures() is not None:
        return None
    last_k, last_q = len(leakage.tokens) - 1, len(leakage.bits) - 1
    anchors = {name.replace(" ", "\n"): one for name, one in found.anchor_pictures.items()}
    panels = {"original": found.original, **anchors}
    for c, cut in enumerate(leakage.cuts):
        shown = dict.fromkeys([(last_k, last_q), (last_k, 0), (0, 0)])
        for k, q in shown:
            if (c, k, q) in found.pictures:
                name = f"cut {cut}\n{leakage.tokens[k]} tokens\n{leakage.bits[q]:g} bits"
                panels[name] = found.pictures[c, k, q]
    names = [attacked.classes[label] for label in attacked.labels]
    with writing(path, NAME):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet({name: one.numpy() for name, one in panels.items()}, names, path)
    return path
