"""Tasks and programs for light devices: their job in plain values, and the programs they run.

The training thread makes programs between rounds, when a device first needs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from cutlayer.allocate.decision import Decision
from cutlayer.files import write_atomically
from cutlayer.job import Job
from cutlayer.light.job import Files, Images, LightJob, Texts, Uplink
from cutlayer.light.texts import TOKENIZER
from cutlayer.model.framing import fit_for
from cutlayer.model.inputs import tokenizer_file
from cutlayer.network.file_transfer import describe_files
from cutlayer.network.transport.messages import DeviceProgram, LightTask, PartFile, Task
from cutlayer.programs.keys import probe_key, round_keys
from cutlayer.programs.packages import missing_package
from cutlayer.settings.precision import Precision
from cutlayer.train.check_light import why_not
from cutlayer.train.parts import Parts
from cutlayer.train.reuse import reuses
from cutlayer.wire.program_ports import ProgramKey

if TYPE_CHECKING:
    from cutlayer.programs.make import Programs

Made = list[tuple[DeviceProgram, list[Path]]]
"""Programs as messages describe them, and the files that a device fetches for them."""


def why_none(job: Job, parts: Parts) -> str | None:
    """Why this server accepts no light devices, as a sentence; None if it does."""
    missing = missing_package()
    if missing is not None:
        return (
            f"light: the server lacks {missing}, with which programs of light devices are made: "
            "pip install 'cutlayer[onnx]' there"
        )
    return why_not(job, parts.model.spec)


@dataclass(frozen=True)
class LightOffer:
    """The task for a light device when it joins, and the files that it may fetch."""

    task: LightTask
    files: list[Path]


class LightOffers:
    """The offers of one run, one for each precision in which devices compute.

    A device computes in the precision that it says as it joins, unless the job chooses one for each
    device and round. task: of devices with torch. folder: of their part of the model; programs are
    kept below it.
    """

    def __init__(self, job: Job, parts: Parts, task: Task, folder: Path) -> None:
        self._job, self._parts, self._task, self._folder = job, parts, task, folder
        self._programs: dict[Precision, Programs] = {}
        self._weights: dict[Precision, PartFile] = {}
        self._chooses = len(job.method.allocation.precisions) > 1

    def offer(self, precision: Precision) -> LightOffer:
        """The offer for one precision. Raises ModelError if the model cannot be exported, OSError
        if the files cannot be written."""
        programs, task = self._of(precision), self._task
        weights = programs.weights
        files = [weights, *self._tokenizer(weights.parent)]
        job = light_job(self._job, self._parts, precision)
        ((sample, graphs),) = self.of_probe(precision, self._job.cut, False)
        told = LightTask(
            0, job, task.digest, task.classes, weights.name, describe_files(files), sample
        )
        return LightOffer(told, [*files, *graphs])

    def of_round(self, precision: Precision, decision: Decision, plain_steps: int) -> Made:
        """The programs that a device needs for a decision. plain_steps: see `Opening`.

        precision: that the device said. Raises ModelError if the model cannot be exported.
        """
        keys = round_keys(self._job, self._parts.model.spec, decision, plain_steps)
        if not self._chooses:
            return [self._made(precision, key) for key in keys]
        chosen = decision.precision
        weights = self._of(chosen).weights
        if chosen not in self._weights:
            (self._weights[chosen],) = describe_files([weights])
        return [
            (msgspec.structs.replace(program, weights=self._weights[chosen]), [weights, *graphs])
            for program, graphs in (self._made(chosen, key) for key in keys)
        ]

    def of_probe(self, precision: Precision, cut: int, scored: bool) -> Made:
        """The program that measures activations. Raises ModelError."""
        return [self._made(precision, probe_key(cut, scored))]

    def _made(self, precision: Precision, key: ProgramKey) -> tuple[DeviceProgram, list[Path]]:
        programs = self._of(precision)
        paths = [programs.blocks(key), programs.ending(key)]
        blocks, ending = describe_files(paths)
        return DeviceProgram(blocks, ending, key), paths

    def _of(self, precision: Precision) -> Programs:
        # Needs packages that few servers have.
        from cutlayer.programs.make import WEIGHTS, programs_of

        if precision not in self._programs:
            spec, reach = self._parts.model.spec, self._task.cut
            folder = self._folder / precision
            # A device may hold the files of several precisions in one folder.
            name = f"{precision}.bin" if self._chooses else WEIGHTS
            self._programs[precision] = programs_of(
                self._job, spec, self._folder, reach, folder, precision, name
            )
        return self._programs[precision]

    def _tokenizer(self, folder: Path) -> list[Path]:
        """The tokenizer's file, set to pad texts to the longest; none for a model of images."""
        own = self._parts.preprocess.tokenizer
        if own is None:
            return []
        path = folder / TOKENIZER
        write_atomically(path, tokenizer_file(own).encode())
        return [path]


def light_job(job: Job, parts: Parts, precision: Precision) -> LightJob:
    """What a light device needs to know of a job."""
    spec, method, generated = parts.model.spec, job.method, job.generated
    uplink, fit = method.uplink, fit_for(spec)
    images = texts = None
    if fit is None:
        texts = Texts(spec.max_tokens)
    else:
        channels: Literal[1, 3] = 1 if spec.channels == 1 else 3
        images = Images(fit.side, fit.edge, fit.keep_aspect, fit.kernel, channels)
    data = job.data
    return LightJob(
        job.seed,
        job.training.batch_size,
        job.training.local_epochs,
        spec.prefix,
        spec.patches,
        spec.width,
        Uplink(
            uplink.codec,
            "gaussian" if uplink.levels == "gaussian" else "uniform",
            uplink.per,
            uplink.rotate,
            uplink.entropy == "zstd",
            reuses(job, spec.modality),
            uplink.rate_bits,
            method.finest_rate_bits,
        ),
        method.tokens.rest == "merge",
        precision,
        images,
        texts,
        generated is not None,
        None if generated is None else generated.share_epsilon,
        Files(
            data.kind,
            data.input_column,
            data.completion_column,
            data.separator,
            data.label_column,
            data.delimiter,
            data.encoding,
            data.quotes,
        ),
    )
