"""The record of a calibration: its fields, its file, and how it is found again.

Reading and finding a record imports neither torch nor transformers, so that planning starts fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from cutlayer.data.fingerprint import of_data
from cutlayer.drawing.notebook import paragraphs, table_html
from cutlayer.errors import RunError
from cutlayer.files import cache_folder
from cutlayer.fingerprint import of_parts
from cutlayer.job import Job
from cutlayer.model.families import describe
from cutlayer.model.fingerprint import of_model
from cutlayer.own_code import with_hash
from cutlayer.planning.calibration import view
from cutlayer.planning.calibration.record_file import read_record, write_record
from cutlayer.planning.calibration.survey_result import SurveyResult
from cutlayer.settings.precision import Precision
from cutlayer.train.read_conditions import patches_a_side

BUNDLED = "demo-calibration.json"
FORMAT = 1
NAME = "calibration"
"""What errors call a record of this kind."""


@dataclass(frozen=True)
class Subject:
    """The model, data and settings that a calibration measured; equal subjects share a record.

    model, data: hashes (see fingerprint.py). image_size, max_tokens: as the model reads its
    inputs, 0 where it has none. score, rest: of the job's tokens. quantizer: settings of the
    uplink besides its bits, the noise on activations where there is some, and the precision of the
    device's blocks where it is not float32.
    """

    model: str
    data: str
    image_size: int
    max_tokens: int
    score: str
    rest: str
    quantizer: dict[str, str | bool | float]

    @property
    def inputs(self) -> str:
        """A hash of all that importance and the statistics of activations depend on."""
        parts = (self.model, self.data, self.image_size, self.max_tokens, self.score)
        other = () if self.precision == "float32" else (self.precision,)
        return of_parts(*parts, *other)[:20]

    @property
    def precision(self) -> str:
        """The numbers in which the device's blocks computed."""
        return str(self.quantizer.get("precision", "float32"))

    @property
    def key(self) -> str:
        """The name of the record in the cache: `inputs`, and a hash of the rest."""
        settings = (f"{name}={value}" for name, value in sorted(self.quantizer.items()))
        return f"{self.inputs}-{of_parts(self.rest, *settings)[:12]}"


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(SurveyResult):
    """What was measured on `samples` samples of the calibration data, drawn by `seed`.

    A notebook shows it as its table and sentences.

    cuts, tokens, bits: the grid, of C, K and Q values (of a fitted codec bits are rates).
    agreement, accuracy: [C, K, Q] the share of predictions that stay as they are uncompressed, and
    that are right. divergence: [C, K, Q] mean KL divergence from the uncompressed predictions, in
    nats. bytes_per_sample: [C, K, Q] of frames of whole batches. importance, importance_low,
    importance_high: by cut, [N + 1] the share of a sample's scores that its best tokens hold: mean,
    10th and 90th percentile over samples. mean_square, range_16: by cut, of the activations: mean
    of squares, and largest less smallest over 16 samples. subject: which model, data and settings
    were measured. seed: of the draw. format: of the record.
    batch_size: samples in a frame. head_samples: how many samples the head was fitted to, 0 where
    a trained adapter brought its own head. adapter: the hash of that adapter's weights, or None.
    version: of cutlayer.
    Raises ValueError where the tables do not fit together, or for a record of another format.
    """

    subject: Subject
    samples: int
    head_samples: int
    batch_size: int
    seed: int
    adapter: str | None
    version: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"its format is {self.format}, this version reads {FORMAT}")
        super().__post_init__()

    def __repr__(self) -> str:
        return (
            f"<Calibration on {self.samples} samples: cuts {_listed(self.cuts)}, "
            f"tokens {_listed(self.tokens)}, bits {_listed(self.bits)}>"
        )

    def _repr_html_(self) -> str:
        shown = table_html(view.rows(self), view.columns(self), view.title(self))
        return shown + paragraphs(view.sentences(self))


def _listed(axis: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in axis)


def subject_of(job: Job, precision: Precision = "float32") -> Subject | None:
    """What a calibration of `job` measures; None where its model or data is not on this machine.

    precision: of the device's blocks.

    Raises ModelError or RunError for a model or files that cannot be read.
    """
    try:
        model = of_model(job.model, job.seed)
        data = of_data(job.data, job.seed)
    except OSError as error:
        raise RunError(
            f"calibration: cannot read {error.filename} ({error.strerror}): make it readable"
        ) from None
    if model is None or data is None:
        return None
    if job.model.aspect != "checkpoint":  # other pixels reach the same model
        model = of_parts(model, job.model.aspect)
    spec = describe(job.model)
    # Of a fitted codec all rates are measured; the step is what makes them.
    rates = {"bits", "step", "rate_bits"}
    apart = rates | {"fit", "weighting", "spatial", "known_tokens", "reuse", "variants", "change"}
    quantizer = job.method.uplink.model_dump(exclude=apart)
    if job.method.uplink.weighting:
        quantizer["weighting"] = True
    if patches_a_side(job, spec, job.cut):
        quantizer["spatial"] = True
    if job.privacy.activation_noise:
        quantizer["activation_noise"] = job.privacy.activation_noise
    if precision != "float32":
        quantizer["precision"] = precision
    if job.method.uplink.codec == "quantize":
        del quantizer["codec"]
    return Subject(
        model,
        data,
        spec.image_size,
        spec.max_tokens,
        with_hash("method.tokens.score", job.method.tokens.score),
        job.method.tokens.rest,
        {**quantizer, "levels": with_hash("method.uplink.levels", quantizer["levels"])},
    )


def calibration_for(
    job: Job, *, exact: bool = True, precision: Precision = "float32"
) -> Calibration | None:
    """The record of the job's model and data: from the cache, else the bundled one, else None.

    precision: of the device's blocks.

    exact: only a record with the job's own quantiser settings and method.tokens.rest. Otherwise,
    where there is no such record, the newest one with any of these: importance and the statistics
    of activations do not depend on them. Nothing is downloaded.
    Raises ModelError, or RunError for a damaged record.
    """
    subject = subject_of(job, precision)
    if subject is None:
        return None
    own = cache_file(subject)
    if own.is_file():
        return read_calibration(own)
    bundled = _bundled() if job.model.path == "demo" else None
    if bundled and bundled.subject == subject:
        return bundled
    if exact:
        return None
    others = list(own.parent.glob(f"{subject.inputs}-*.json"))
    if others:
        return read_calibration(max(others, key=lambda path: path.stat().st_mtime))
    return bundled if bundled and bundled.subject.inputs == subject.inputs else None


def _bundled() -> Calibration | None:
    """The demo's record, which comes with the package."""
    path = Path(str(files("cutlayer.assets"))) / BUNDLED
    return read_calibration(path) if path.is_file() else None


def cache_file(subject: Subject) -> Path:
    """Where the record of `subject` lies."""
    return cache_folder() / "calibration" / f"{subject.key}.json"


def read_calibration(path: str | Path) -> Calibration:
    """The record in a file. Raises RunError where there is none or it is damaged."""
    return read_record(path, Calibration, NAME, "calibrate")


def write_calibration(calibration: Calibration, path: str | Path) -> Path:
    """Write the record as JSON, whole or not at all. Returns the path; raises RunError."""
    return write_record(calibration, path, NAME)
