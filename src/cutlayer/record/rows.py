"""The record of a run: one row a round, in a file that grows line by line."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
from msgspec import Meta

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import RoundShape, Traffic, batch_sizes
from cutlayer.errors import RunError
from cutlayer.files import open_plain
from cutlayer.record.plain_json import to_line
from cutlayer.settings.training import Training

FILE = "rounds.jsonl"
# A round of 100,000 devices takes some 15 MB.
MAX_LINE_BYTES = 2**25
MOST_DEVICES = 2**20
MOST_MEASURED = 10_000
"""Devices of a fleet, from the first on, whose own figures are recorded and shown."""

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Number = Annotated[int, Meta(ge=0, lt=MOST_DEVICES)]
_Numbers = dict[_Number, float]


class _Decided(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The fields of a Decision, in its order, as a line has them."""

    cut: Annotated[int, Meta(ge=0, le=2**12)]
    tokens: Annotated[int, Meta(ge=1, le=2**20)] | None = None
    bits_up: Annotated[int, Meta(ge=1, le=32)] = 32
    bits_down: Annotated[int, Meta(ge=1, le=32)] = 32
    bandwidth_hz: float | None = None
    power_w: float | None = None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A Row as a line has it, with the types and bounds that it is checked against."""

    round: Annotated[int, Meta(ge=0, le=2**31)]
    decisions: dict[_Number, _Decided]
    samples: dict[_Number, _Count]
    loss: float | None
    traffic: dict[_Number, Annotated[list[_Count], Meta(min_length=4, max_length=7)]]
    seconds: dict[str, float]
    cpu_seconds: float
    device_loss: _Numbers
    accuracy: float | None = None
    test_loss: float | None = None
    accuracy_through_cut: float | None = None
    test_samples: _Count | None = None
    macro_f1: float | None = None
    perplexity: float | None = None
    class_accuracy: list[float | None] = []
    confusion: list[Annotated[list[_Count], Meta(min_length=3, max_length=3)]] = []
    label_mix_accuracy: list[float | None] = []
    held_out_accuracy: list[float | None] = []
    held_out_samples: list[_Count] = []
    device_accuracy: list[float] = []  # what label_mix_accuracy was called once
    left_out: dict[_Number, str] = {}
    late: list[_Number] = []
    lost: list[_Number] = []
    virtual_s: float | None = None
    joules: _Numbers = {}
    planned_s: float | None = None
    ste: float | None = None
    ste_bound: float | None = None
    generated: list[_Count] | None = None
    generated_weight: float | None = None
    generated_s: float | None = None
    generated_image_s: float | None = None
    generated_loss: float | None = None
    overhead_bytes: Annotated[list[_Count], Meta(min_length=2, max_length=2)] | None = None
    steps: dict[_Number, _Count] = {}
    computed: dict[_Number, list[_Count]] = {}


_decode = msgspec.json.Decoder(_Line).decode


@dataclass(frozen=True)
class Row:
    """One round as measured. M devices of the fleet, numbered from 0; C classes."""

    round: int
    """The number of the round, from 0."""

    decisions: dict[int, Decision]
    """With what each device took part, by device, in the order in which devices take turns."""

    samples_trained: dict[int, int]
    """Samples that each device set out to train on, all epochs of the round together (`samples` in
    the file).
    """

    loss: float
    """Mean training loss over all batches of the round; NaN where nobody trained."""

    traffic: dict[int, list[int]]
    """Bytes of encoded frames, headers included, by device: [activations, gradients, adapter down,
    adapter up, basis and samples held down, features down, their gradients up]; records of earlier
    versions lack some of the last three.
    """

    seconds: dict[str, float]
    """Wall-clock seconds of each stage of the round, by its name."""

    cpu_seconds: float
    """Processor seconds of training, on all cores together."""

    device_loss: dict[int, float]
    """Mean training loss of each device over its batches."""

    accuracy: float | None = None
    """Accuracy on the test set of the unsplit model with the exported adapter; where each device
    keeps a model of its own, of all of them together. None, as all figures of a test, in a round
    without one.
    """

    test_loss: float | None = None
    """Mean loss on the test set of the models that accuracy is of."""

    accuracy_through_cut: float | None = None
    """Accuracy on the test set with the tokens and bits of the job, as device and server would
    serve together; in the last round only.
    """

    test_samples: int | None = None
    """Samples in the test set."""

    macro_f1: float | None = None
    """Mean over classes of F1 on the test set; where each device keeps a model of its own, the mean
    of theirs.
    """

    perplexity: float | None = None
    """Exponential of a language model's test loss of a token; None for other models, and where it
    is beyond all bounds.
    """

    class_accuracy: list[float | None] = field(default_factory=list)
    """[C] accuracy on the test samples of each class; None for a class that the test set has none
    of.
    """

    confusion: list[list[int]] = field(default_factory=list)
    """[true class, predicted class, test samples] of every pair that occurs; in the last round
    only.
    """

    label_mix_accuracy: list[float | None] = field(default_factory=list)
    """[M] accuracy on the test set, its classes weighted by the mix of labels of each device; None
    for a device that keeps an adapter of its own and has none yet. Of a fleet of more than
    MOST_MEASURED the first so many.
    """

    held_out_accuracy: list[float | None] = field(default_factory=list)
    """[M] accuracy on each device's own held-out samples, None where it has none; empty where the
    job holds none out.
    """

    held_out_samples: list[int] = field(default_factory=list)
    """[M] how many samples each device holds out; empty where the job holds none out."""

    left_out: dict[int, str] = field(default_factory=dict)
    """Why devices that were drawn for the round did not take part, by device."""

    late: list[int] = field(default_factory=list)
    """Devices whose training came too late for the average."""

    lost: list[int] = field(default_factory=list)
    """Devices that took part and were lost: they stopped answering, or sent what was refused."""

    virtual_s: float | None = None
    """Seconds of the round in the job's world; None without a world."""

    joules: dict[int, float] = field(default_factory=dict)
    """Joules that each device spent in the job's world; empty without a world."""

    planned_s: float | None = None
    """Seconds that the virtual clock expected of the decisions; None without a world."""

    ste: float | None = None
    """Semantic transmission efficiency of the plan, sum f_m(K_m) over the longest upload (arXiv
    2605.26120), per second; None where the allocator does not know it.
    """

    ste_bound: float | None = None
    """No allocation has a larger `ste`; None where the allocator gives no bound."""

    generated: list[int] | None = None
    """[C] images of each class that the server generated and trained on; this and what follows are
    None where the server generates none.
    """

    generated_weight: float | None = None
    """Weight in the new adapter of what the server trained on generated images."""

    generated_s: float | None = None
    """Seconds of the server for drawing and training on them, in the job's world."""

    generated_image_s: float | None = None
    """Seconds of these for drawing one image."""

    generated_loss: float | None = None
    """Mean training loss on generated images; None where there were none."""

    overhead_bytes: list[int] | None = None
    """[up, down] bytes that a real network took besides the frames: messages, chunk headers,
    credits; None in a simulation.
    """

    steps: dict[int, int] = field(default_factory=dict)
    """Batches that each device did train on: fewer than planned where it was lost."""

    computed: dict[int, list[int]] = field(default_factory=dict)
    """Samples of each step that a device ran and sent, where the server held the others; empty
    where every sample is sent.
    """

    @property
    def cohort(self) -> list[int]:
        """The devices that took part."""
        return list(self.decisions)

    @property
    def up_bytes(self) -> int:
        """Bytes from all devices to the server."""
        return sum(Traffic(*found).up for found in self.traffic.values())

    @property
    def down_bytes(self) -> int:
        """Bytes from the server to all devices."""
        return sum(Traffic(*found).down for found in self.traffic.values())

    def shape(self, training: Training) -> RoundShape:
        """The round as it happened. A record without steps has made all of them."""
        batches = {}
        for device, samples in self.samples_trained.items():
            planned = batch_sizes(samples // training.local_epochs, training)
            batches[device] = planned[: self.steps.get(device, len(planned))]
        traffic = {device: Traffic(*self.traffic.get(device, ())) for device in batches}
        computed = {d: tuple(sizes) for d, sizes in self.computed.items() if d in batches}
        return RoundShape(self.round, self.decisions, batches, traffic, computed)

    def to_json(self) -> str:
        """One line of the record's file."""
        values = asdict(self)
        values["samples"] = values.pop("samples_trained")
        values["decisions"] = {device: astuple(one) for device, one in self.decisions.items()}
        return to_line(values)

    @classmethod
    def from_json(cls, line: str | bytes, devices: int = MOST_DEVICES) -> "Row":
        """The row of a line. Raises ValueError for anything but a whole round.

        devices: how many the job has; a line that tells of others is damaged.
        """
        try:
            found = _decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ValueError(str(error)) from None
        took_part = found.decisions.keys()
        told_of = found.samples.keys() | found.traffic.keys() | found.joules.keys()
        told_of |= {*found.late, *found.lost, *found.steps, *found.computed}
        apart = took_part | found.left_out.keys()
        if not told_of <= took_part or max(apart, default=0) >= devices:
            raise ValueError("it tells of devices that took no part")
        classes = len(found.class_accuracy)
        if any(max(pair[:2]) >= classes for pair in found.confusion):
            raise ValueError("it confuses classes that it does not have")
        if len(found.held_out_accuracy) != len(found.held_out_samples):
            raise ValueError("its held-out samples are not those of its held-out accuracies")
        if not found.device_loss.keys() <= found.samples.keys():
            raise ValueError("it has losses of devices without samples")
        if any(len(sizes) > found.steps.get(d, 0) for d, sizes in found.computed.items()):
            raise ValueError("it has samples of steps that were not made")
        values = {name: getattr(found, name) for name in found.__struct_fields__}
        older = values.pop("device_accuracy")
        values["label_mix_accuracy"] = values["label_mix_accuracy"] or older
        values["loss"] = math.nan if found.loss is None else found.loss
        values["samples_trained"] = values.pop("samples")
        values["decisions"] = {
            device: Decision(*(getattr(one, name) for name in one.__struct_fields__))
            for device, one in found.decisions.items()
        }
        return cls(**values)


def read_rows(
    folder: Path, say: Callable[[str], Any] = warnings.warn, devices: int = MOST_DEVICES
) -> list[Row]:
    """The rounds of a run, in order; a line cut short by a crash is left out.

    say: told of every other line that is no round of `devices` devices, which is left out too.
    Raises RunError when the folder holds no record.
    """
    path = folder / FILE
    rows: list[Row] = []
    try:
        with open_plain(path) as file:
            for number, line in enumerate(lines_of(file)):
                try:
                    row = Row.from_json(line, devices)
                    if rows and row.round <= rows[-1].round:
                        raise ValueError(f"round {row.round + 1} is there already")
                    rows.append(row)
                except ValueError as error:
                    if line.endswith(b"\n"):
                        say(f"line {number + 1} of {path} is left out: it is no round ({error})")
    except ValueError as error:
        say(f"{path}: {error}")
    except OSError as error:
        raise RunError(
            f"run folder: cannot read {path} ({error.strerror}): give the folder of a run"
        ) from None
    return rows


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a record from where it is read. Raises ValueError for one beyond all bounds."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(
                f"a line has more than {MAX_LINE_BYTES} bytes: it and what follows are left out"
            )
        yield line
