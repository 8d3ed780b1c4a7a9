"""A light device: its samples, its programs, and the frames of a round."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutlayer.data.reading import (
    READERS,
    OwnSamples,
    as_arrays,
    check_there,
    kind_of_source,
    read_own,
)
from cutlayer.errors import DataError, RunError
from cutlayer.light.encoded import FittedCodec, Sent, check_shape, coded_floats, coded_levels
from cutlayer.light.graph import Arrays
from cutlayer.light.images import ready_images
from cutlayer.light.job import LightJob
from cutlayer.light.program import Program
from cutlayer.light.texts import Tokens
from cutlayer.seeds import derive
from cutlayer.train.activation_summary import ActivationStatistics, importance_of
from cutlayer.train.batch_order import draw_batches
from cutlayer.train.opening import HeldSamples, Opening
from cutlayer.wire.activation_frames import Batch, activations_frame
from cutlayer.wire.codecs.basis import read_basis
from cutlayer.wire.codecs.seam import Coded
from cutlayer.wire.headers import TensorHeader
from cutlayer.wire.program_ports import ProgramKey
from cutlayer.wire.visit import Visit, encode_visit

Indices = NDArray[np.int64]
Programs = Mapping[ProgramKey, Program]


Samples = OwnSamples[NDArray[np.uint8]]


def read_samples(path: Path, job: LightJob, classes: tuple[str, ...]) -> Samples:
    """The device's own samples, labelled by the server's classes. Raises DataError."""
    check_there(path)
    files = msgspec.structs.replace(job.files, path=str(path))
    fit = None if job.images is None else job.images.fit
    found = read_own(READERS[kind_of_source(path)](files), classes, fit, as_arrays)
    if isinstance(found.inputs, list) != job.is_text:
        kinds = ("texts", "images") if job.is_text else ("images", "texts")
        raise DataError(f"--data: {path} holds {kinds[1]}, but the job's model reads {kinds[0]}")
    return found


class LightDevice:
    """One device that runs forward only.

    number: of the device in the job. classes: how many there are. tokens: turns texts into tokens;
    None for images. A round lasts from `begin` to the next `begin`.
    """

    def __init__(
        self,
        number: int,
        job: LightJob,
        samples: Samples,
        classes: int,
        tokens: Tokens | None = None,
    ) -> None:
        self.number, self.job, self.samples, self.classes = number, job, samples, classes
        self._tokens = tokens
        self._codec: FittedCodec | None = None
        self._rotation = derive(job.seed, "rotation")
        self._batches: list[Indices] = []
        self._programs: Programs = {}
        self._held = HeldSamples()
        self._round, self._plain, self._bits = -1, 0, 32
        self._share = 1.0
        self._keep: int | None = None

    @property
    def basis(self) -> int | None:
        """The fingerprint of the basis that it has; None without one."""
        return None if self._codec is None else self._codec.basis.fingerprint

    @property
    def plain_steps(self) -> int:
        """How many steps of the round come before the basis comes down; 0 if none is to come."""
        return self._plain

    @property
    def steps(self) -> int:
        """How many batches the round has."""
        return len(self._batches)

    def begin(
        self,
        round: int,
        opening: Opening,
        programs: Programs,
        keep: int | None = None,
        bits: int = 32,
        samples: int | None = None,
        rate_bits: float | None = None,
    ) -> None:
        """Start a round. keep: how many tokens of a sample are kept besides the prefix; bits: of a
        value; samples: the most of an epoch; rate_bits: bits of a value with a fitted codec (None:
        the job's). Raises FrameError for a basis that cannot be read."""
        self._round, self._plain, self._bits, self._keep = round, opening.plain_steps, bits, keep
        self._programs = programs
        uplink = self.job.uplink
        rate = uplink.rate_bits if rate_bits is None else rate_bits
        self._share = min(1.0, rate / uplink.finest_rate_bits)
        if opening.basis is not None:
            self.learn(opening.basis)
        elif self._codec is not None and self._codec.share != self._share:
            self._codec = FittedCodec(self._codec.basis, self._share)
        self._held = HeldSamples(opening.held)
        self._batches = list(self._draw(round, samples))

    def learn(self, basis: bytes) -> None:
        """Take a basis that came down. Raises FrameError."""
        self._codec = FittedCodec(read_basis(basis), self._share)

    def statistics(self, round: int, program: Program) -> ActivationStatistics:
        """Statistics of the activations of a round's first batch."""
        found = program.run(self.ready(next(self._draw(round, None))))
        hidden = found["hidden"]
        rows = hidden[found["mask"]] if "mask" in found else hidden
        scores = found.get("scores")
        importance = None if scores is None else importance_of(scores.astype(np.float64))
        mean_square = float(np.square(rows, dtype=np.float32).mean())
        return ActivationStatistics(importance, float(rows.max() - rows.min()), mean_square)

    def frame(self, step: int) -> bytes:
        """The frame of a step. Raises RunError for activations that are not finite."""
        indices = self._batches[step]
        if not self.job.uplink.reuse or step < self._plain:
            (frame,) = self._frames(step, indices, apart=False)
            return frame
        frames: dict[int, bytes | None] = dict.fromkeys(map(int, indices))
        fresh = self._held.to_send(indices)
        found = dict(zip(map(int, fresh), self._frames(step, fresh, apart=True), strict=True))
        frames |= found
        self._held.sent(found.items())
        return encode_visit(Visit(self.number, self._round, step, frames))

    def _draw(self, round: int, most: int | None) -> Iterator[Indices]:
        job = self.job
        sizes = (job.local_epochs, job.batch_size, len(self.samples.labels))
        return draw_batches(job.seed, self.number, round, *sizes, most)

    def ready(self, indices: Indices) -> Arrays:
        """The samples with these numbers, as inputs of the programs."""
        inputs = self.samples.inputs
        if self._tokens is not None:
            return self._tokens([cast(str, inputs[int(i)]) for i in indices])
        assert isinstance(inputs, np.ndarray)
        assert self.job.images is not None
        return {"images": ready_images(inputs[indices], self.job.images)}

    def _frames(self, step: int, indices: Indices, apart: bool) -> list[bytes]:
        """One frame of all samples, or (apart) a frame of each; none without samples."""
        kind = self._kind(step)
        if apart and kind == "levels":  # in one call the samples would share a scale
            return [self._frames(step, indices[[i]], False)[0] for i in range(len(indices))]
        if not len(indices):
            return []
        given = self.ready(indices)
        program = self._program(kind, given)
        if program.key.selects:
            given["keep"] = np.array([self._keep], np.int64)
        if kind == "basis":
            given |= self._fitted().inputs
        found = program.run(given)
        sent = self._sent(found, program.key, len(indices), self._candidates(given))
        code = self._coder(program.key, found, sent)
        labels = self.samples.labels[indices]
        if not apart:
            return [self._pack(step, sent, labels, code(sent.all))]
        return [
            self._pack(step, sent.only(i), labels[[i]], code(sent.rows(i)))
            for i in range(len(indices))
        ]

    def _kind(self, step: int) -> str:
        """How the activations of a step are encoded: see `Coding.kind`."""
        if self.job.uplink.codec == "klt":
            return "levels" if step < self._plain else "basis"
        return "floats" if self._bits > 8 else "levels"

    def _program(self, kind: str, given: Arrays) -> Program:
        """The program that a batch needs."""
        selects = self._keep is not None and self._keep < self._candidates(given)
        for key, program in self._programs.items():
            if key.coding.kind == kind and key.selects == selects and not key.scored:
                return program
        raise RunError(
            f"program: the server sent none for {kind}"
            f"{' with a choice of tokens' if selects else ''}: run the same cutlayer on both sides"
        )

    def _candidates(self, given: Arrays) -> int:
        """From how many tokens of each sample of a batch the selection chooses."""
        if not self.job.is_text:
            return self.job.candidates
        return int(given["ids"].shape[1]) - self.job.prefix

    def _fitted(self) -> FittedCodec:
        if self._codec is None:
            raise RunError(
                "method.uplink.codec: the server sent no basis to encode with: run the same "
                "cutlayer on both sides"
            )
        return self._codec

    def _sent(self, found: Arrays, key: ProgramKey, B: int, candidates: int) -> Sent:
        """The tokens of a batch that a program has selected."""
        merged = key.selects and key.merges
        count = candidates if not key.selects else cast(int, self._keep)
        T = self.job.prefix + count + merged
        kept, mask = found.get("kept"), found.get("mask")
        if kept is not None:
            check_shape("kept", kept.shape, (B, count))
        if mask is not None:
            check_shape("mask", mask.shape, (B, T))
        return Sent(B, T, candidates, kept, merged, mask)

    def _coder(self, key: ProgramKey, found: Arrays, sent: Sent) -> Callable[[slice], Coded]:
        """A function that encodes some rows of a program's outputs."""
        uplink, coding = self.job.uplink, key.coding
        if coding.kind == "basis":
            codec = self._fitted()
            quantised = codec.quantised(found, sent)
            return lambda rows: codec.coded(quantised, rows)
        if coding.kind == "floats":
            header = TensorHeader(self._float_bits, uplink.levels, uplink.per, None, False)
            check_shape("hidden", found["hidden"].shape, (sent.B, sent.T, self.job.width))
            return lambda rows: coded_floats(found["hidden"], sent, rows, header, uplink.compress)
        rotation = self._rotation if coding.rotate else None
        bits = cast(Literal[8], coding.bits)  # 1 to 8: see Program
        levels = TensorHeader(bits, coding.levels, coding.per, rotation, False)
        check_shape("codes", found["codes"].shape, (sent.all.stop, self.job.width))
        compress = uplink.compress or uplink.codec == "klt"  # always before a basis is fitted
        return lambda rows: coded_levels(found, levels, compress)

    @property
    def _float_bits(self) -> Literal[16, 32]:
        return 16 if self._bits == 16 else 32

    def _pack(self, step: int, sent: Sent, labels: Indices, coded: Coded) -> bytes:
        shape = (sent.B, sent.T, self.job.width)
        batch = Batch(
            self.number,
            self._round,
            step,
            shape,
            sent.mask,
            labels,
            self.classes,
            kept=sent.kept,
            candidates=sent.candidates,
            merged=sent.merged,
        )
        return activations_frame(batch, coded)
