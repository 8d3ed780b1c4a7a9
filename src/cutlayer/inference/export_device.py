"""The verb `export-device`: a device's program for use without this package, and how to run it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cutlayer.allocate.decision import Decision
from cutlayer.errors import JobError, RunError
from cutlayer.files import write_atomically
from cutlayer.job import Job, load_job, read_job
from cutlayer.model.families import describe
from cutlayer.model.framing import fit_for
from cutlayer.model.inputs import Preprocessor, tokenizer_file
from cutlayer.model.part import write_part
from cutlayer.programs.keys import round_keys
from cutlayer.programs.make import programs_of
from cutlayer.record.folder import JOB_FILE
from cutlayer.settings.precision import Precision
from cutlayer.train.check_light import why_not

GRAPH, EXAMPLE = "device.onnx", "run.py"

_IMAGES = '''"""Runs the device's part on images: python run.py IMAGE ..."""

import sys

import numpy as np
import onnxruntime
from PIL import Image

SIDE, MODE, KEEP = {side}, "{mode}", {keep}
session = onnxruntime.InferenceSession("device.onnx", providers=["CPUExecutionProvider"])
pixels = []
for name in sys.argv[1:]:
    image = Image.open(name).convert(MODE).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    levels = np.asarray(image, np.float32).reshape(SIDE, SIDE, -1)
    pixels.append(levels.transpose(2, 0, 1))
given = {{"images": np.stack(pixels)}}
if KEEP:
    given["keep"] = np.array([KEEP], np.int64)
names = [one.name for one in session.get_outputs()]
for name, value in zip(names, session.run(None, given)):
    print(name, value.dtype, value.shape)
'''

_TEXTS = '''"""Runs the device's part on texts: python run.py TEXT ..."""

import sys

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

MOST, KEEP = {most}, {keep}
session = onnxruntime.InferenceSession("device.onnx", providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation(MOST)
texts = tokenizer.encode_batch(sys.argv[1:])
given = {{"ids": np.array([one.ids for one in texts], np.int64)}}
given["attention"] = np.array([one.attention_mask for one in texts], np.int64)
if KEEP:
    given["keep"] = np.array([KEEP], np.int64)
names = [one.name for one in session.get_outputs()]
for name, value in zip(names, session.run(None, given)):
    print(name, value.dtype, value.shape)
'''


@dataclass(frozen=True)
class ExportedDevice:
    """What was written: the folder, and the names and bytes of its files.

    folder: the path. files: by name, the bytes of each.
    """

    folder: Path
    files: dict[str, int]


def export_device(
    source: str | Path | Job,
    *,
    out: str | Path,
    cut: int | None = None,
    precision: Precision = "float32",
) -> ExportedDevice:
    """Write the device's part of a job as an ONNX graph with its weights and an example.

    out: the folder to write. precision: numbers in which the graph computes its frozen blocks.
    source: a run folder, a YAML job, or a job. cut: number of blocks in the part; None: the job's.
    Tokens are selected and values quantised as the job's method says (`wire.program_ports` lists
    the inputs and outputs). Raises JobError, ModelError or RunError, each with one sentence.
    """
    job, folder = _job_of(source), Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"--out: {folder} holds something already: give a new folder")
    spec = describe(job.model)
    reason = why_not(job, spec)
    if reason is not None:
        raise JobError(f"{reason}: a program without torch runs forward only")
    if job.method.uplink.codec == "klt":
        raise JobError(
            "method.uplink.codec: klt needs a basis that only a run fits: export with --set "
            "method.uplink.codec=quantize"
        )
    depth = job.cut if cut is None else cut
    if not 0 <= depth <= spec.depth:
        raise JobError(f"--cut: {depth} of {spec.depth} blocks: take 0 to {spec.depth}")
    tokens = job.method.tokens.keep
    decision = Decision(depth, tokens, job.method.uplink.bits)
    key = round_keys(job, spec, decision, 0)[0]
    with TemporaryDirectory() as scratch:
        part = Path(scratch) / "part"
        write_part(part, job.model.model_copy(update={"cut": depth}), job.seed, "device")
        programs = programs_of(job, spec, part, depth, Path(scratch) / "made", precision)
        graph, weights = programs.whole(key), programs.weights
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(graph, folder / GRAPH)
        shutil.copyfile(weights, folder / weights.name)
    keep = tokens if key.selects else None
    fit = fit_for(spec)
    if fit is None:
        own = tokenizer_file(Preprocessor(spec).tokenizer)
        write_atomically(folder / "tokenizer.json", own.encode())
        text = _TEXTS.format(most=spec.max_tokens, keep=keep)
    else:
        text = _IMAGES.format(side=fit.side, mode="L" if spec.channels == 1 else "RGB", keep=keep)
    write_atomically(folder / EXAMPLE, text.encode())
    return ExportedDevice(
        folder, {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    )


def _job_of(source: str | Path | Job) -> Job:
    if isinstance(source, Job):
        return source
    path = Path(source)
    return read_job(path / JOB_FILE) if path.is_dir() else load_job(path)
