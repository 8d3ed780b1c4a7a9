"""What views are made from: a run's job and record, and what was computed anew from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cutlayer.drawing.curves import Curve, curve_of
from cutlayer.job import Job
from cutlayer.planning.leakage.record import Leakage
from cutlayer.record.early_stop import is_over
from cutlayer.record.rows import Row
from cutlayer.world.timeline import STAGES as STAGES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Holdings:
    """Who holds which labels: counts [m, C] of `classes`, of all devices or the first of them.

    known: the devices whose labels are known; None: all of them. devices, samples: of the whole
    fleet, where it is larger than `counts` tells.
    """

    classes: Sequence[str]
    counts: Ints
    known: Sequence[int] | None = None
    devices: int | None = None
    samples: int | None = None


@dataclass(frozen=True, eq=False)
class Spans:
    """When each stage of a round happened, in seconds since its start.

    devices: in the order of the cohort; late: those that came too late or never. place [S], stage
    [S], start_s [S], end_s [S]: of each span, its device's place and its place in STAGES.
    """

    round: int
    duration_s: float
    devices: Sequence[int]
    late: Sequence[int]
    place: Ints
    stage: Ints
    start_s: Floats
    end_s: Floats


@dataclass(frozen=True, eq=False)
class Places:
    """Where the fleet was at the start of some rounds [R]; arrays [R, m].

    devices: the numbers of the m that are shown; None: all. uplink_bps: at full power and an equal
    share of the band among those of them that are in coverage.
    """

    rounds: Sequence[int]
    coverage_m: float
    x_m: Floats
    y_m: Floats
    speed_mps: Floats
    in_coverage: npt.NDArray[np.bool_]
    uplink_bps: Floats
    devices: Sequence[int] | None = None


@dataclass(frozen=True, eq=False)
class Patches:
    """Which patches of B images would cross the cut.

    images: uint8 [B, H, W, C], C = 1 or 3. ranks [B, N]: each patch's place among the N by its
    score, 0 the best; the patches of an image make a square. budgets: numbers kept, rising; own:
    the one that the run itself kept, None for all. predicted [B, 1 + budgets]: the model's answer
    with all patches, then with each budget.
    rest: what becomes of patches that are not kept, "merge" or "drop".
    """

    cut: int
    score: str
    rest: str
    images: npt.NDArray[np.uint8]
    labels: Sequence[str]
    ranks: Ints
    budgets: Sequence[int]
    own: int | None
    predicted: Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder.

    rows: at least one. whole: the number of tokens that a decision of None keeps; 0: unknown.
    missing: by view (labels, gantt, fleet, patches) the sentence that says why it is not there.
    names: of devices by number, where they joined over a network.
    classes: their names, in order; none where the folder has none (yet). label: what a comparison
    called it; empty for a run of its own. own_bytes: of all its training samples themselves, by
    format (see record.data_file). audit: what `cutlayer audit` made of it, with the sheet of
    reconstructions as a PNG file's content.
    """

    folder: Path
    job: Job
    rows: Sequence[Row]
    whole: int = 0
    holdings: Holdings | None = None
    rounds: Sequence[Spans] = ()
    places: Places | None = None
    patches: Patches | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    classes: Sequence[str] = ()
    label: str = ""
    own_bytes: Mapping[str, float] = field(default_factory=dict)
    audit: Leakage | None = None
    sheet: bytes = b""

    def called(self, devices: int) -> list[str]:
        """The names of the first `devices` devices, where they joined over a network."""
        return [self.names.get(number, f"device {number}") for number in range(devices)]

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.folder.resolve().name

    @property
    def curve(self) -> Curve:
        """Accuracy as the run went on."""
        return curve_of(self.rows)

    @property
    def accuracy(self) -> float | None:
        """The last accuracy that was measured, as a fraction."""
        found = [row.accuracy for row in self.rows if row.accuracy is not None]
        return found[-1] if found else None

    @property
    def over(self) -> bool:
        """Whether the run goes on no further: all its rounds are done, or it was stopped early."""
        accuracy = {row.round + 1: row.accuracy for row in self.rows}
        return is_over(self.job.training, len(self.rows), accuracy)

    @property
    def test_samples(self) -> int | None:
        """Size of the test set; None where no accuracy was measured, or a record is older."""
        found = [row.test_samples for row in self.rows if row.test_samples is not None]
        return found[-1] if found else None

    @property
    def up_bytes(self) -> int:
        """Bytes from all devices to the server, over the whole run."""
        return sum(row.up_bytes for row in self.rows)

    @property
    def down_bytes(self) -> int:
        """Bytes from the server to all devices, over the whole run."""
        return sum(row.down_bytes for row in self.rows)

    @property
    def virtual_s(self) -> float | None:
        """Seconds in the job's world; None without one."""
        found = [row.virtual_s for row in self.rows if row.virtual_s is not None]
        return sum(found) if found else None

    @property
    def joules(self) -> float | None:
        """Joules of all devices over the whole run, in the job's world."""
        if self.virtual_s is None:
            return None
        return sum(sum(row.joules.values()) for row in self.rows)

    @property
    def dropped(self) -> int:
        """Turns of devices that were left out, came too late or were lost."""
        return sum(len(row.left_out) + len(row.late) + len(row.lost) for row in self.rows)


@dataclass(frozen=True)
class Line:
    """Runs that differ only in their seed: one line of a comparison."""

    label: str
    runs: Sequence[Run]

    @property
    def job(self) -> Job:
        """The job of the line's first run."""
        return self.runs[0].job


def lines_of(runs: Iterable[Run]) -> list[Line]:
    """The runs by job, seeds together, each named by its label, or else by its method and what
    sets it apart.

    Two runs of the same job and seed are two lines: one does not say how sure the other is.
    """
    groups: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in runs:
        key = run.label + "\n" + run.job.model_copy(update={"seed": 0}).model_dump_json()
        again = 0
        while any(run.job.seed == other.job.seed for other in groups.get((key, again), [])):
            again += 1
        groups[key, again].append(run)
    return [
        Line(label, sorted(found, key=lambda run: run.job.seed))
        for label, found in zip(_labels(list(groups.values())), groups.values(), strict=True)
    ]


def settings_of(job: Job) -> dict[str, Any]:
    """Every setting of a job by its path, as in training.rounds."""
    found: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                walk(f"{path}.{key}" if path else key, below)
        else:
            found[path] = value

    walk("", job.model_dump(mode="json"))
    return found


def differing(jobs: Sequence[Job]) -> list[str]:
    """The paths of the settings in which jobs differ."""
    every = [settings_of(job) for job in jobs]
    paths = dict.fromkeys(path for settings in every for path in settings)
    return [
        path
        for path in paths
        if any(settings.get(path) != every[0].get(path) for settings in every)
    ]


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A name for each: a comparison's label, else the method's, its settings where methods are
    alike, or the folder's.
    """
    labels = []
    for group in groups:
        job = group[0].job
        alike = [other[0].job for other in groups if other[0].job.method.name == job.method.name]
        apart = [path for path in differing(alike) if path != "seed"]
        values = settings_of(job)
        label = " ".join(
            [job.method.name]
            + [f"{path.removeprefix('method.')}={_short(values.get(path))}" for path in apart]
        )
        label = label if len(apart) <= 3 else group[0].name
        labels.append(group[0].label or label)
    return [
        label if labels.count(label) == 1 else f"{label} ({group[0].name})"
        for label, group in zip(labels, groups, strict=True)
    ]


def _short(value: Any) -> str:
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text.rsplit("/", 1)[-1]
