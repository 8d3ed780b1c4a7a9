"""What a browser is given of one run or several: the report's views, from what was already read."""

from __future__ import annotations

import functools
import gc
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cutlayer.dashboard.watch import WatchedRun
from cutlayer.errors import RunError
from cutlayer.record.rows import Row
from cutlayer.record.tail import Tail
from cutlayer.reports import build_report, page
from cutlayer.reports.views.runs import Run, lines_of

_OPEN = 4
_IMAGES = 4
_CELLS = 30_000
# Until a browser has what is computed anew from model, data and world.
_SOON = dict.fromkeys(page.TITLES, "it is being computed from the job")


class OpenRuns:
    """The records of the runs that were looked at last, each read once and then followed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[Tail[Row], list[Row]]] = OrderedDict()
        self._again: OrderedDict[tuple[str, int], Run] = OrderedDict()
        # Model and data of one job at a time: the next look at it is quick.
        self._load = functools.lru_cache(maxsize=1)(build_report.load_for_views)

    def run(self, seen: WatchedRun) -> Run:
        """The run with all its rows so far. Raises RunError where it has none."""
        if seen.job is None:
            raise RunError(f"run: {seen.name} cannot be read: {seen.fault}")
        with self._lock:
            tail, rows = self._open.pop(seen.name, (Tail(seen.folder, Row.from_json), []))
            begun = tail.begun
            try:
                with _uncollected():
                    for row in tail.rows():
                        if tail.begun != begun:
                            begun = tail.begun
                            rows.clear()
                        rows.append(row)
            except (OSError, ValueError) as error:
                raise RunError(f"run: the record of {seen.name} cannot be read: {error}") from None
            self._open[seen.name] = (tail, rows)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
            rows = list(rows)
        if not rows:
            raise RunError(f"run: {seen.name} has no finished round yet: its first is under way")
        return Run(
            seen.folder,
            seen.job,
            rows,
            classes=build_report.classes_of(seen.folder),
            label=build_report.label_of(seen.folder),
        )

    def detail(self, several: Sequence[WatchedRun]) -> dict[str, Any]:
        """The first run's views, as the report's page is given them; of those to be computed the
        places.
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
        """Its views to be computed, which takes seconds; asked again, those of the same round."""
        seen = several[0]
        run = self.run(seen)
        key = (seen.name, len(run.rows))
        if key not in self._again:
            self._again[key] = build_report.again(run, _IMAGES, 1, self._load)
            while len(self._again) > _OPEN:
                self._again.popitem(last=False)
        return {"rounds": len(run.rows), "views": page.computed_views(self._again[key])}

    def together(self, several: Sequence[WatchedRun]) -> dict[str, Any]:
        """The views of several runs side by side. Raises RunError for fewer than two."""
        if len(several) < 2:
            raise RunError("run: side by side are two runs or more: choose another")
        with _uncollected():
            runs = [self.run(seen) for seen in several]
            lines = lines_of(runs)
            return page.payload([], lines, build_report.usual_reference(lines))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Read without Python's search for cycles: rows have none, and searching doubles the time.

    Within another it leaves the end to that one.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
