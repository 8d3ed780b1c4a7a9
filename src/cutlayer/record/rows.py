"""The record of a run: one row a round, in a file that grows line by line."""

import json
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import RoundShape, Traffic, batch_sizes
from cutlayer.errors import RunError
from cutlayer.settings.training import Training

FILE = "rounds.jsonl"


@dataclass(frozen=True)
class Row:
    """One round as measured.

    decisions: of the devices that took part, in the order they take turns; left_out: why others
    of the cohort did not. samples_all_epochs: that each set out to train on in the round
    (`samples` in the file); steps: the batches that it did train on, fewer where it was lost.
    Traffic is in bytes of encoded frames, headers included, by device: [activations, gradients,
    adapter down, adapter up]. Accuracies are None in rounds without an evaluation.
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
        return sum(t[1] + t[2] for t in self.traffic.values())

    def shape(self, training: Training) -> RoundShape:
        """The round as it happened. A record without steps has made all of them."""
        batches = {}
        for device, samples in self.samples_all_epochs.items():
            planned = batch_sizes(samples // training.local_epochs, training)
            batches[device] = planned[: self.steps.get(device, len(planned))]
        traffic = {device: Traffic(*self.traffic.get(device, ())) for device in batches}
        return RoundShape(self.round, self.decisions, batches, traffic)

    def to_json(self) -> str:
        """One line of the record's file."""
        values = asdict(self)
        values["samples"] = values.pop("samples_all_epochs")
        values["decisions"] = {device: astuple(one) for device, one in self.decisions.items()}
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes) -> "Row":
        """The row of a line. Raises ValueError or TypeError for anything else."""
        try:
            values: dict[str, Any] = msgspec.json.decode(line)  # long records: a third of the time
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None
        values.setdefault("steps", {})  # which records did not always have
        if "device_accuracy" in values:  # what it was called once
            values["label_mix_accuracy"] = values.pop("device_accuracy")
        for key in (
            "traffic", "device_loss", "joules", "samples", "steps", "decisions", "left_out",
        ):  # fmt: skip
            values[key] = {int(device): value for device, value in values[key].items()}
        values["samples_all_epochs"] = values.pop("samples")
        values["decisions"] = {d: Decision(*one) for d, one in values["decisions"].items()}
        return cls(**values)


def read_rows(folder: Path) -> list[Row]:
    """The rounds of a run, in order; a line cut short by a crash is left out.

    Raises RunError when the folder holds no record.
    """
    path = folder / FILE
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise RunError(
            f"run folder: cannot read {path} ({error.strerror}): give the folder of a run"
        ) from None
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(Row.from_json(line))
        except (ValueError, TypeError, KeyError):
            if number == len(lines) - 1:
                break
            raise RunError(f"run folder: line {number + 1} of {path} is not a round") from None
    return rows
