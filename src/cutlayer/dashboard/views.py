"""The report's views of one run or several for a browser, from records that are already read."""

from __future__ import annotations

import functools
import gc
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from cutlayer.dashboard.watch import WatchedRun
from cutlayer.errors import RunError
from cutlayer.record.row_lines import row_of
from cutlayer.record.rows import Row
from cutlayer.record.tail import Tail
from cutlayer.reports import build_report, page, read_runs, recompute
from cutlayer.reports.views.runs import Run, lines_of

_OPEN = 4
_IMAGES = 4
_CELLS = 30_000
# Shown until the views that are computed from model, data and world are ready.
_SOON = dict.fromkeys(page.TITLES, "it is being computed from the job")


class _Opened:
    """The record of one run, read by one thread at a time; readers of other runs do not wait."""

    def __init__(self, seen: WatchedRun) -> None:
        assert seen.job is not None
        self._lock = threading.Lock()
        self._tail = Tail(seen.folder, partial(row_of, devices=seen.job.devices.count))
        self._rows: list[Row] = []
        self._begun = 0

    def rows(self) -> list[Row]:
        """All rounds so far. Raises OSError and ValueError as Tail.rows."""
        with self._lock, _uncollected():
            for row in self._tail.rows():
                if self._tail.begun != self._begun:
                    self._begun = self._tail.begun
                    self._rows.clear()
                self._rows.append(row)
            return list(self._rows)


class OpenRuns:
    """The records of the runs that were viewed last; each is read once, then only its new lines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self._again: OrderedDict[tuple[str, int], Run] = OrderedDict()
        # Keeps model and data of one job, so that its next view is quick.
        self._load = functools.lru_cache(maxsize=1)(recompute.load_for_views)

    def run(self, seen: WatchedRun) -> Run:
        """The run with all its rows so far. Raises RunError where it has none."""
        if seen.job is None:
            raise RunError(f"run: {seen.name} cannot be read: {seen.fault}")
        with self._lock:
            opened = self._open.pop(seen.name, None) or _Opened(seen)
            self._open[seen.name] = opened
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        try:
            rows = opened.rows()
        except (OSError, ValueError) as error:
            raise RunError(f"run: the record of {seen.name} cannot be read: {error}") from None
        if not rows:
            raise RunError(f"run: {seen.name} has no finished round yet: its first is under way")
        return Run(
            seen.folder,
            seen.job,
            rows,
            classes=read_runs.classes_of(seen.folder),
            label=read_runs.label_of(seen.folder),
            names=read_runs.names_of(seen.folder, seen.job.devices.count),
        )

    def detail(self, several: Sequence[WatchedRun]) -> dict[str, Any]:
        """The views of the first run, as in the report's page; views that must be computed are
        placeholders.
        """
        with _uncollected():
            run = self.run(several[0])
            return {
                "title": f"{run.job.method.name}, seed {run.job.seed}",
                "rounds": len(run.rows),
                "computed": list(page.TITLES),
                "views": page.views_of(replace(run, missing=_SOON), cells=_CELLS),
            }

    def computed(self, several: Sequence[WatchedRun]) -> dict[str, Any]:
        """The views of the first run that must be computed, which takes seconds; kept for the same
        round."""
        seen = several[0]
        run = self.run(seen)
        key = (seen.name, len(run.rows))
        if key not in self._again:
            self._again[key] = recompute.again(run, _IMAGES, 1, self._load)
            while len(self._again) > _OPEN:
                self._again.popitem(last=False)
        return {"rounds": len(run.rows), "views": page.computed_views(self._again[key])}

    def together(self, several: Sequence[WatchedRun]) -> dict[str, Any]:
        """The views of several runs side by side. Raises RunError for fewer than two."""
        several = list({seen.name: seen for seen in several}.values())
        if len(several) < 2:
            raise RunError("run: a comparison needs two runs or more: choose another")
        with _uncollected():
            runs = [self.run(seen) for seen in several]
            lines = lines_of(runs)
            return page.payload([], lines, build_report.usual_reference(lines))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Switches Python's search for cycles off while reading: it would double the time in vain.

    Inside another `with` block of this kind it changes nothing.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
