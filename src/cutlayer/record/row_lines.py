"""The record of a run: a file of lines, one a round, that grows as rounds end.

Lines are written from rows and checked as they are read:
a damaged line is left out, and the others count.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
from msgspec import Meta

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import TRAFFIC_KINDS
from cutlayer.errors import RunError
from cutlayer.files import open_plain
from cutlayer.record.plain_json import to_line
from cutlayer.record.rows import Row
from cutlayer.settings.precision import Precision

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
    rate_bits: Annotated[float, Meta(gt=0, le=32)] | None = None
    precision: Precision = "float32"


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A Row as a line has it, with the types and bounds that it is checked against."""

    round: Annotated[int, Meta(ge=0, le=2**31)]
    decisions: dict[_Number, _Decided]
    samples: dict[_Number, _Count]
    loss: float | None
    traffic: dict[_Number, Annotated[list[_Count], Meta(min_length=4, max_length=TRAFFIC_KINDS)]]
    seconds: dict[str, float]
    cpu_seconds: float
    device_loss: _Numbers
    accuracy: float | None = None
    test_loss: float | None = None
    accuracy_through_cut: float | None = None
    test_samples: _Count | None = None
    macro_f1: float | None = None
    perplexity: float | None = None
    perplexity_through_cut: float | None = None
    class_accuracy: list[float | None] = []
    confusion: list[Annotated[list[_Count], Meta(min_length=3, max_length=3)]] = []
    label_mix_accuracy: list[float | None] = []
    held_out_accuracy: list[float | None] = []
    held_out_samples: list[_Count] = []
    device_accuracy: list[float] = []  # what label_mix_accuracy was called once
    left_out: dict[_Number, str] = {}
    late: list[_Number] = []
    lost: list[_Number] = []
    clipped: dict[_Number, Annotated[float, Meta(ge=1)]] = {}
    clipped_tokens: dict[_Number, _Count] = {}
    epsilon: Annotated[float, Meta(ge=0)] | None = None
    delta: Annotated[float, Meta(gt=0, lt=1)] | None = None
    hidden_unit: Literal["device", "sample"] | None = None
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


def line_of(row: Row) -> str:
    """The line of a row in the record's file, without its end."""
    values = asdict(row)
    values["samples"] = values.pop("samples_trained")
    values["decisions"] = {device: _decided(one) for device, one in row.decisions.items()}
    return to_line(values)


def _decided(one: Decision) -> tuple[Any, ...]:
    """The fields of a decision; float32 is left out, as earlier versions know no other."""
    found = astuple(one)
    return found[:-1] if one.precision == "float32" else found


def row_of(line: str | bytes, devices: int = MOST_DEVICES) -> Row:
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
    told_of |= {*found.clipped, *found.clipped_tokens}
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
    return Row(**values)


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
                    row = row_of(line, devices)
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
