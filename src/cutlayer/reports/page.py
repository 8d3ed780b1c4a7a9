"""A report as one HTML file: views as JSON, with the style and the script that draw them."""

from __future__ import annotations

import html
import importlib.resources
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutlayer import __version__
from cutlayer.reports.views import (
    classes,
    comparison,
    curves,
    devices,
    leakage,
    patches,
    rounds,
    summary,
)
from cutlayer.reports.views.pack import View
from cutlayer.reports.views.runs import Line, Run, lines_of

SCRIPTS = (
    "base.js", "lines.js", "heatmap.js", "controls.js", "views.js", "rounds.js", "page.js",
)  # fmt: skip
TITLES = {
    "labels": "Who holds which labels",
    "gantt": "The round's timeline",
    "fleet": "The fleet on the map",
    "patches": "Which patches are kept",
}


def render(detailed: Sequence[Run], lines: Sequence[Line], reference: Run | None = None) -> str:
    """The page: nothing in it is fetched from anywhere.

    detailed: the runs to show one by one, with all that is known of them; lines: all runs, side
    by side where there are several. reference: what headlines are measured against.
    """
    report = payload(detailed, lines, reference)
    parts = {
        "title": html.escape(f"cutlayer report: {report['title']}"),
        "style": asset("page.css"),
        "script": "\n".join(asset(name) for name in SCRIPTS),
        # Names of classes and folders may hold what would end the script.
        "payload": json.dumps(report, separators=(",", ":"), allow_nan=False).replace(
            "<", "\\u003c"
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], asset("page.html"))


def asset(name: str) -> str:
    """The text of a file in assets/ that the page is made of."""
    folder = importlib.resources.files("cutlayer.reports") / "assets"
    return (folder / name).read_text(encoding="utf-8")


def payload(
    detailed: Sequence[Run], lines: Sequence[Line], reference: Run | None = None
) -> dict[str, Any]:
    """The JSON that the page's script draws from."""
    runs = [run for line in lines for run in line.runs]
    several = len(runs) > 1
    together = _together(lines, reference) if several else []
    names = {run.folder: line.label for line in lines for run in line.runs}
    left = len(runs) - len(detailed)
    return {
        "title": f"{len(runs)} runs side by side" if several else runs[0].job.method.name,
        "about": _about(runs),
        "foot": f"Written by cutlayer {__version__}. This page loads nothing from elsewhere.",
        "together": together,
        "runs": [
            {
                "label": f"{names[run.folder]}, seed {run.job.seed}",
                "views": views_of(run, _other(reference, run), alone=not several),
            }
            for run in detailed
        ],
        "more": "In detail: the first seed of each line. A report of one run shows that run."
        if left > 0
        else "",
    }


def views_of(
    run: Run, reference: Run | None = None, alone: bool = True, cells: int = rounds.CELLS
) -> list[View]:
    """All views of one run; in place of a view that cannot be made stands a sentence that says why.

    alone: with its curves, which a comparison shows for all runs. cells: see rounds.allocation.
    """
    found = [summary.headline(run, reference), summary.job(run)]
    if alone:
        found.append(curves.curves(lines_of([run])))
    labels, gantt, fleet, kept = computed_views(run)
    by_class, by_device = classes.classes(run), devices.devices(run)
    found += [by_class, labels, by_device, gantt, rounds.allocation(run, cells), fleet, kept]
    return found if run.audit is None else [*found, leakage.leakage(run.audit, run.sheet)]


def computed_views(run: Run) -> list[View]:
    """The views of one run that need model, data or world beside its record: see `TITLES`."""
    return [
        devices.labels(run, run.holdings) if run.holdings else _missing(run, "labels"),
        rounds.gantt(run) if run.rounds else _missing(run, "gantt"),
        rounds.fleet(run, run.places) if run.places else _missing(run, "fleet"),
        patches.patches(run.patches) if run.patches else _missing(run, "patches"),
    ]


def _other(reference: Run | None, run: Run) -> Run | None:
    """The reference run; None where the run is the reference itself."""
    return None if reference is None or reference.folder == run.folder else reference


def _together(lines: Sequence[Line], reference: Run | None) -> list[View]:
    base = next((line for line in lines if reference in line.runs), None)
    found = [comparison.table(lines, base), curves.curves(lines)]
    front = comparison.pareto(lines)
    return found + ([front] if front else [])


def _missing(run: Run, view: str) -> View:
    why = run.missing.get(view, "it was not computed")
    return {"kind": "missing", "id": view, "title": TITLES[view], "text": f"Not shown: {why}."}


def _about(runs: Sequence[Run]) -> str:
    models = {Path(run.job.model.path).name for run in runs}
    data = {Path(run.job.data.path or run.job.data.source).name for run in runs}
    lengths = sorted({run.job.training.rounds for run in runs})
    rounds = f"{lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else f"{lengths[0]}"
    devices = sorted({run.job.devices.count for run in runs})
    fleet = f"{devices[0]} to {devices[-1]}" if len(devices) > 1 else f"{devices[0]}"
    task = f"{', '.join(sorted(models))} on {', '.join(sorted(data))}"
    return f"{task}: {fleet} devices, {rounds} rounds."
