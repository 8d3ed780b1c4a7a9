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
    traffic: dict[_Number, Annotated[list[_Count], Meta(min_length=4, max_length=5)]]
    seconds: dict[str, float]
    cpu_seconds: float
    device_loss: _Numbers
    accuracy: float | None = None
    test_loss: float | None = None
    accuracy_through_cut: float | None = None
    test_samples: _Count | None = None
    macro_f1: float | None = None
    class_accuracy: list[float | None] = []
    confusion: list[Annotated[list[_Count], Meta(min_length=3, max_length=3)]] = []
    label_mix_accuracy: list[float] = []
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
    """One round as measured.

    decisions: of the devices that took part, in the order they take turns; left_out: why others
    of the cohort did not. samples_all_epochs: that each set out to train on in the round
    (`samples` in the file); steps: the batches that it did train on, fewer where it was lost;
    computed: the samples of each step that it ran and sent, where it only named the others.
    Traffic is in bytes of encoded frames, headers included, by device: [activations, gradients,
    adapter down, adapter up, basis and samples held down]; records of earlier versions lack the
    last. Accuracies are None in rounds without an evaluation.
    accuracy_through_cut: with the job's tokens and bits, as device and server would serve
    together (last round only); accuracy: the unsplit model with the exported adapter.
    test_samples: size of the test set that the accuracies are of. macro_f1, class_accuracy [C]
    (None: the test set has none of the class): of the unsplit model too; confusion: [true class,
    predicted class, samples] of the pairs that occur (last round only). Where each device keeps a
    model of its own they are of all of them together.
    label_mix_accuracy: accuracy on the test set, its classes weighted by each device's own mix of
    labels [M]. held_out_accuracy: on each device's own held-out samples, held_out_samples many [M]
    (None for no sample); both empty where the job holds none out.
    late: devices whose training came too late for the average; lost: those that
    stopped answering, or sent what will not do.
    virtual_s, joules: the round's duration and each device's energy in the job's world; None and
    empty without one. planned_s: the duration that the clock expected of the decisions. ste:
    semantic transmission efficiency, sum f_m(K_m) over the longest upload (arXiv 2605.26120), per
    second; ste_bound: no allocation has more. Both None where nothing measured them.
    generated: images that the server generated and trained on, by class [C], with their weight in
    the new adapter, the seconds of the server (of drawing one: generated_image_s) in the job's
    world, and the mean loss (None for no images); all None where the method goes without.
    overhead_bytes: what a real network took beyond the frames, up and down: messages, chunks and
    credits; None in a simulation.
    loss: mean over all batches; NaN where nobody trained.
    seconds: wall clock by stage. cpu_seconds: processor time of training, on all cores.
    """

    round: int
    decisions: dict[int, Decision]
    samples_all_epochs: dict[int, int]
    loss: float
    traffic: dict[int, list[int]]
    seconds: dict[str, float]
    cpu_seconds: float
    device_loss: dict[int, float]
    accuracy: float | None = None
    test_loss: float | None = None
    accuracy_through_cut: float | None = None
    test_samples: int | None = None
    macro_f1: float | None = None
    class_accuracy: list[float | None] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    label_mix_accuracy: list[float] = field(default_factory=list)
    held_out_accuracy: list[float | None] = field(default_factory=list)
    held_out_samples: list[int] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    late: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    virtual_s: float | None = None
    joules: dict[int, float] = field(default_factory=dict)
    planned_s: float | None = None
    ste: float | None = None
    ste_bound: float | None = None
    generated: list[int] | None = None
    generated_weight: float | None = None
    generated_s: float | None = None
    generated_image_s: float | None = None
    generated_loss: float | None = None
    overhead_bytes: list[int] | None = None
    steps: dict[int, int] = field(default_factory=dict)
    computed: dict[int, list[int]] = field(default_factory=dict)

    @property
    def cohort(self) -> list[int]:
        """The devices that took part."""
        return list(self.decisions)

    @property
    def up_bytes(self) -> int:
        """Bytes from all devices to the server."""
        return sum(t[0] + t[3] for t in self.traffic.values())

    @property
    def down_bytes(self) -> int:
        """Bytes from the server to all devices."""
        return sum(t[1] + t[2] + sum(t[4:]) for t in self.traffic.values())

    def shape(self, training: Training) -> RoundShape:
        """The round as it happened. A record without steps has made all of them."""
        batches = {}
        for device, samples in self.samples_all_epochs.items():
            planned = batch_sizes(samples // training.local_epochs, training)
            batches[device] = planned[: self.steps.get(device, len(planned))]
        traffic = {device: Traffic(*self.traffic.get(device, ())) for device in batches}
        computed = {d: tuple(sizes) for d, sizes in self.computed.items() if d in batches}
        return RoundShape(self.round, self.decisions, batches, traffic, computed)

    def to_json(self) -> str:
        """One line of the record's file."""
        values = asdict(self)
        values["samples"] = values.pop("samples_all_epochs")
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
        values["samples_all_epochs"] = values.pop("samples")
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
