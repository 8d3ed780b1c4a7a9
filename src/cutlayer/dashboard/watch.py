"""Finds the runs below a folder and how far each is, at little cost each time."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cutlayer.errors import CutlayerError, RunError
from cutlayer.harmless import harmless
from cutlayer.job import Job, read_job
from cutlayer.record.early_stop import is_over
from cutlayer.record.find_runs import find_run_folders
from cutlayer.record.folder import JOB_FILE, ROSTER_FILE
from cutlayer.record.row_lines import FILE as RECORD_FILE
from cutlayer.record.tail import Brief, Summary, Tail, read_brief
from cutlayer.reports.views.pack import plain, spread

# A run is silent when its record did not change for this many seconds and rounds' lengths.
_SILENT_S, _SILENT_ROUNDS = 60.0, 5.0
# A run diverges whose accuracy has fallen so far below its best, as the alert of a fleet has it.
_FELL = 0.1
# Or whose training loss is more than this many times that of its first round.
_ROSE = 2.0
# Accuracies of a run that the list draws as a small curve, at most.
_CURVE = 40


@dataclass(eq=False)
class WatchedRun:
    """One run folder: its job, and a summary of its record so far.

    fault: why the folder cannot be read. note: which lines of its record are left out.
    """

    name: str
    folder: Path
    tail: Tail[Brief]
    job: Job | None = None
    summary: Summary = field(default_factory=Summary)
    fault: str = ""
    changed_s: float = 0.0
    _accuracy: dict[int, float | None] = field(default_factory=dict)
    _first_loss: float | None = None
    _begun: int = 0
    _job_written: int = 0
    _files: tuple[tuple[int, int, int], ...] = ()

    def look(self) -> bool:
        """Read what is new; returns whether anything was. Never raises: sets `fault` instead."""
        before = (self.summary.rounds, self._begun, self.fault, self.note, self._job_written)
        try:
            files = tuple(_stamp(self.folder / name) for name in (JOB_FILE, RECORD_FILE))
            if files == self._files:  # unchanged: a folder that cannot be read is not read again
                return False
            self._files = ()
            self._read()
            self.fault, self._files = "", files
        except FileNotFoundError:
            self.fault = "the record is not there (yet)"
        except OSError as error:
            self.fault = harmless(f"cannot be read: {error.strerror or error}")
        except (ValueError, CutlayerError) as error:
            self.fault, self._files = harmless(str(error)), files
        return before != (
            self.summary.rounds, self._begun, self.fault, self.note, self._job_written,
        )  # fmt: skip

    @property
    def note(self) -> str:
        """A sentence on the lines of the record that are left out, or ""."""
        damaged = self.tail.damaged
        return f"{damaged} damaged lines of its record are left out" if damaged else ""

    def _read(self) -> None:
        written = (self.folder / JOB_FILE).stat().st_mtime_ns
        if self.job is None or written != self._job_written:
            self._job_written = written
            self.job = read_job(self.folder / JOB_FILE)
        for row in self.tail.rows():
            if self._begun != self.tail.begun:
                self._begun, self.summary = self.tail.begun, Summary()
                self._accuracy.clear()
                self._first_loss = None
            self.summary.add(row)
            if self._first_loss is None:
                self._first_loss = row.loss
            self._accuracy[self.summary.rounds] = row.accuracy
        self.changed_s = self.tail.path.stat().st_mtime

    @property
    def state(self) -> str:
        """finished, running, silent (no change for long), waiting (no round yet) or unreadable."""
        if self.fault or self.job is None:
            return "unreadable"
        if is_over(self.job.training, self.summary.rounds, self._accuracy):
            return "finished"
        timeouts = _SILENT_S + _SILENT_ROUNDS * self.summary.seconds
        if time.time() - self.changed_s > timeouts:
            return "silent"
        return "running" if self.summary.rounds else "waiting"

    @property
    def notice(self) -> str:
        """Why somebody should look at the run: it stopped or diverges; nothing where it is well."""
        found = [one for one in self._accuracy.values() if one is not None]
        if self.state == "silent":
            done, of = self.summary.rounds, self.job.training.rounds if self.job else 0
            return (
                f"it stopped: nothing comes after {done} of {of} rounds; if its process has ended, "
                "resume the run"
            )
        first, last = self._first_loss, self.summary.loss
        if first is not None and last is not None and last > _ROSE * first:
            return (
                f"it diverges: its training loss rose from {first:,.4g} to {last:,.4g}; a lower "
                "training.lr may help"
            )
        if found and max(found) - found[-1] >= _FELL:
            return (
                f"it diverges: its accuracy fell from {100 * max(found):.1f} to "
                f"{100 * found[-1]:.1f} %; a lower training.lr may help"
            )
        return ""

    @property
    def curve(self) -> list[float]:
        """The accuracies so far, spread evenly where there are many, the last among them."""
        found = [one for one in self._accuracy.values() if one is not None]
        return [found[i] for i in spread(range(len(found)), _CURVE)]

    def told(self) -> dict[str, Any]:
        """The run's line in the list of runs, as JSON."""
        job = self.job
        return {
            "id": self.name,
            "state": self.state,
            "fault": self.fault or self.note,
            "notice": self.notice,
            "curve": self.curve,
            "changed_s": self.changed_s,
            "network": (self.folder / ROSTER_FILE).exists(),
            "method": job.method.name if job else None,
            "model": Path(job.model.path).name if job else None,
            "seed": job.seed if job else None,
            "of": job.training.rounds if job else None,
            **plain(asdict(self.summary)),
        }


class WatchedRuns:
    """All runs below `root`; `look` from one thread at a time."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise RunError(
                f"RUNS: {root} is no folder: name one that holds run folders, or start a run first"
            )
        self.root = root
        self.runs: dict[str, WatchedRun] = {}
        self._states: dict[str, str] = {}

    def find(self, name: str) -> WatchedRun:
        """The run with a name of the list; paths are not accepted. Raises RunError."""
        if name not in self.runs:
            raise RunError(f"run: there is no {name} below {self.root} now: choose one of the list")
        return self.runs[name]

    def look(self) -> tuple[list[WatchedRun], list[str]]:
        """The runs new or changed since the last look, and the names of those that are gone."""
        there = {self._name(folder): folder for folder in find_run_folders(self.root)}
        gone = [name for name in self.runs if name not in there]
        for name in gone:
            del self.runs[name], self._states[name]
        changed = []
        for name, folder in there.items():
            seen = self.runs.setdefault(name, WatchedRun(name, folder, Tail(folder, read_brief)))
            new = seen.look()
            # A run becomes silent without any change of its files.
            if new or self._states.get(name) != seen.state:
                self._states[name] = seen.state
                changed.append(seen)
        return changed, gone

    def _name(self, folder: Path) -> str:
        relative = folder.relative_to(self.root).as_posix()
        return folder.resolve().name if relative == "." else relative


def _stamp(path: Path) -> tuple[int, int, int]:
    """A file's stamp, which differs after each change of the file. Raises OSError."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
