"""The table of an audit: what attacks made of what crosses the cut, its file, how it is found."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cutlayer.drawing.notebook import paragraphs, table_html
from cutlayer.errors import RunError
from cutlayer.files import cache_folder
from cutlayer.fingerprint import of_file, of_parts
from cutlayer.job import Job
from cutlayer.planning.calibration.record import Subject
from cutlayer.planning.calibration.record_file import read_record, write_record
from cutlayer.planning.calibration.survey_result import Floats, Grid
from cutlayer.planning.leakage import view

FORMAT = 1
NAME = "audit"
"""What errors call a record of this kind."""

RUN_FILE = "audit.json"
"""In a run folder: the audit of its trained model."""

SHARES = ("reidentified", "matched", "inverted_reidentified")


@dataclass(frozen=True)
class Likeness:
    """How like the attacked images some others are: a line to hold attacks against.

    psnr_db: the mean peak signal-to-noise ratio in dB. ssim: the mean structural similarity, None
    where torchmetrics is not installed. reidentified: the share nearer to their own image than to
    any other of those attacked.
    """

    psnr_db: float
    ssim: float | None
    reidentified: float


@dataclass(frozen=True)
class Members:
    """How well the exported adapter tells samples that it was trained on from others, by their
    loss.

    auc: 0.5 is chance. caught: the share of members above what 1 % of the others reach; 0.01 is
    chance. members, others: samples of each.
    """

    auc: float
    caught: float
    members: int
    others: int


@dataclass(frozen=True)
class GradientLabels:
    """How well a gradient at the cut tells a class from all others: the mean AUC over classes.

    norm: by its length alone. direction: by its cosine to the mean gradient of that class on
    public images. 0.5 is chance (arXiv 2102.08504).
    """

    norm: float
    direction: float


@dataclass(frozen=True, eq=False, repr=False)
class Leakage(Grid):
    """What attacks made of `attacked` images after a cut, with so many tokens and bits.

    A notebook shows it as its table and sentences.

    cuts, tokens, bits: the grid [C], [K], [Q] of the tables (of a fitted codec bits are rates).
    subject: what was attacked, as hashes and settings. adapter: the hash of the trained adapter's
    weights, or None. attacked, public, inverted: numbers of images. decoder_steps, inversion_steps:
    of training a decoder, and of descending on pixels. seed: drew the images. version: of cutlayer.
    format: of the record.
    Tables [C, K, Q], NaN at cut 0 with fewer than all tokens:
    psnr_db, ssim, reidentified: of images that a decoder made, trained on `public` other images
    (see Likeness; ssim is all NaN where torchmetrics is not installed).
    matched: the share of samples whose activations are nearest to those that the attacker computes
    itself of the same image, among all those attacked.
    inverted_psnr_db, inverted_reidentified: of `inverted` images made by descending on the pixels
    until the device part gives what came; NaN where inversion_steps is 0.
    bytes_per_sample: of the frames.
    Tables [C, K]:
    information, size_information: of what crosses before it is coded: diagonal Fisher information
    per pixel with activation noise as large as the activations, from the noisy values and from the
    size of their noise (arXiv 2305.04146).
    gradient_labels: by cut; empty where no gradient leaves the server or a tail.
    members: None but of a trained run.
    anchors: what to hold these against, by name.
    noise: privacy.activation_noise. chance: of re-identification. pixels: a side of the images
    compared. Raises ValueError where these do not fit together.
    """

    psnr_db: Floats
    ssim: Floats
    reidentified: Floats
    matched: Floats
    inverted_psnr_db: Floats
    inverted_reidentified: Floats
    bytes_per_sample: Floats
    information: Floats
    size_information: Floats
    gradient_labels: dict[int, GradientLabels]
    members: Members | None
    anchors: dict[str, Likeness]
    subject: Subject
    noise: float
    adapter: str | None
    public: int
    attacked: int
    inverted: int
    decoder_steps: int
    inversion_steps: int
    pixels: int
    seed: int
    version: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"its format is {self.format}, this version reads {FORMAT}")
        super().__post_init__()
        most = float(np.finfo(np.float64).max)
        for name in ("reidentified", "matched"):
            self.check_table(name, getattr(self, name), 1.0)
        for name in ("bytes_per_sample", "information", "size_information"):
            self.check_table(name, getattr(self, name), most)
        self.check_table("psnr_db", self.psnr_db, most, -most)
        for name, low, top in (
            ("ssim", -1.0, 1.0),
            ("inverted_psnr_db", -most, most),
            ("inverted_reidentified", 0.0, 1.0),
        ):
            table = getattr(self, name)
            if table.shape != self.psnr_db.shape or not np.isnan(table).all():
                self.check_table(name, table, top, low)
        if min(self.public, self.attacked) < 1:
            raise ValueError(f"{self.attacked} images attacked by {self.public} public ones")

    def __repr__(self) -> str:
        return f"<Leakage of {self.attacked} images attacked at cuts {list(self.cuts)}>"

    def _repr_html_(self) -> str:
        shown = table_html(view.rows(self), view.columns(self), "What attacks make of it")
        return shown + paragraphs(view.sentences(self))

    @property
    def chance(self) -> float:
        """The share that is re-identified by drawing lots."""
        return 1 / self.attacked

    def bound_psnr_db(self) -> Floats | None:
        """[C, K]: the largest mean PSNR in dB of any unbiased attack; None without noise.

        A Cramer-Rao bound on the squared error of an unbiased estimate of a pixel (Maeng et al.
        2023, arXiv 2305.04146); coding after the noise cannot weaken it. It is of the values sent,
        not of which tokens were chosen, and an attack with a prior of images is not unbiased.
        """
        if not self.noise:
            return None
        found: Floats = 10 * np.log10(self.information / self.noise**2 + self.size_information)
        return found


def first_weights(job: Job) -> str | None:
    """A hash of the weights that the device part begins with besides the checkpoint's: those of
    model.adapter; None where there are none, or where devices are frozen and run without them.

    Raises RunError for weights that cannot be read.
    """
    if job.model.adapter is None or job.method.device == "frozen":
        return None
    files = sorted(Path(job.model.adapter).expanduser().glob("*.safetensors"))
    try:
        return of_parts(*(f"{path.name} {of_file(path)}" for path in files))
    except OSError as error:
        raise RunError(
            f"model.adapter: cannot read {error.filename} ({error.strerror}): make it readable"
        ) from None


def leakage_of(subject: Subject, weights: str | None = None) -> Leakage | None:
    """The cached audit of a model, data, codec and noise; None where there is none.

    weights: `first_weights` of the job. Raises RunError for a damaged record.
    """
    path = cache_file(subject, weights)
    return read_leakage(path) if path.is_file() else None


def cache_file(subject: Subject, weights: str | None = None) -> Path:
    """Where the audit of `subject` lies, with the `first_weights` of its job."""
    name = subject.key if weights is None else f"{subject.key}-{weights[:12]}"
    return cache_folder() / "audit" / f"{name}.json"


def read_leakage(path: str | Path) -> Leakage:
    """The record in a file. Raises RunError where there is none or it is damaged."""
    return read_record(path, Leakage, NAME, "audit")


def write_leakage(found: Leakage, path: str | Path) -> Path:
    """Write the record as JSON, whole or not at all. Returns the path; raises RunError."""
    return write_record(found, path, NAME)
