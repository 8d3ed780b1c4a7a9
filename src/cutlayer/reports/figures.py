"""The figures of a report for a paper: each as PNG, SVG and PDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import numpy as np

from cutlayer.drawing import curves, plan_plots, plots, style
from cutlayer.reports.views.runs import STAGES, Line, Patches, Run, Spans


def draw(
    lines: Sequence[Line],
    run: Run,
    folder: Path,
    formats: Sequence[str] = style.FORMATS,
    column: style.Column | None = None,
) -> list[Path]:
    """Write all figures that the runs have data for below `folder`; returns what was written.

    lines: for the figures that show all runs; run: for those of one. column: of the paper that
    they are for. Raises OSError, or ValueError for a font that is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with style.formats(*formats), style.in_column(column):
        _together(lines, folder)
        _of_one(run, folder)
    return sorted(path for path in folder.iterdir() if before.get(path) != path.stat().st_mtime_ns)


def _together(lines: Sequence[Line], folder: Path) -> None:
    found = {line.label: [run.curve for run in line.runs] for line in lines}
    curves.draw_curves(found, folder)
    if len(lines) < 2:
        return
    traffic = [
        plots.MethodBytes(
            line.label,
            mean(run.up_bytes for run in line.runs),
            mean(run.down_bytes for run in line.runs),
        )
        for line in lines
    ]
    plots.bytes_by_method(traffic, folder / "bytes-by-method.png")
    points = [
        plots.Point(
            line.label,
            mean(run.up_bytes + run.down_bytes for run in line.runs),
            mean(run.accuracy or 0.0 for run in line.runs),
        )
        for line in lines
        if all(run.accuracy is not None for run in line.runs)
    ]
    if len([point for point in points if point.bytes > 0]) > 1:
        plots.pareto(points, folder / "pareto.png")


def _of_one(run: Run, folder: Path) -> None:
    if run.holdings is not None:
        held = run.holdings
        place = folder / "labels.png"
        plots.label_map(held.counts, held.classes, place, held.devices, held.samples)
    if run.rounds:
        last = run.rounds[-1]
        plan_plots.gantt(_Stages(last), last.devices, folder / "round.png")
    if run.patches is not None:
        patches(run.patches, folder / "patches.png")


class _Stages:
    """A round's spans in the form that `plan_plots.gantt` draws."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self.duration_s = spans.duration_s

    def spans(self, device: int) -> list[SimpleNamespace]:
        """The spans of the device at a place in the cohort."""
        one = self._spans
        return [
            SimpleNamespace(
                stage=STAGES[one.stage[i]], start_s=float(one.start_s[i]), end_s=float(one.end_s[i])
            )
            for i in np.flatnonzero(one.place == device)
        ]


def patches(found: Patches, path: Path) -> None:
    """Images in lines; all of each, then with each budget: kept bright, the others covered."""
    titles = [f"all {found.ranks.shape[1]}", *(f"{budget} kept" for budget in found.budgets)]
    count = len(found.images)
    with style.new_figure(path, width=0.5 + 1.4 * len(titles), height=0.9 + 1.5 * count) as figure:
        grid = figure.subplots(count, len(titles), squeeze=False)
        for line, (image, ranks) in enumerate(zip(found.images, found.ranks, strict=True)):
            for column, keep in enumerate((ranks.size, *found.budgets)):
                axes = grid[line, column]
                axes.imshow(covered(image, ranks, keep, found.rest), interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                axes.spines[:].set_visible(False)
                axes.set_xlabel(found.predicted[line][column], fontsize=8)
                if not line:
                    axes.set_title(titles[column], fontsize=10)
            grid[line, 0].set_ylabel(found.labels[line], fontsize=9)
        rest = "merged ones grey" if found.rest == "merge" else "dropped ones dark"
        figure.suptitle(
            f"Patches kept after block {found.cut}, {rest};\nbelow: the model's answer", fontsize=11
        )


def covered(image: np.ndarray, ranks: np.ndarray, keep: int, rest: str) -> np.ndarray:
    """An image [H, W, C] as RGB with the patches that are not kept dimmed (merged) or dark."""
    side = round(len(ranks) ** 0.5)
    height, width = image.shape[:2]
    rows = np.arange(height) * side // height
    columns = np.arange(width) * side // width
    kept = ranks[rows[:, None] * side + columns[None, :]] < keep
    colours = np.repeat(image, 3 // image.shape[2], axis=2).astype(np.float64)
    cover, weight = (np.array([110.0, 116.0, 130.0]), 0.72) if rest == "merge" else (0.0, 0.88)
    dimmed = (1 - weight) * colours + weight * cover
    shown: np.ndarray = np.where(kept[:, :, None], colours, dimmed).astype(np.uint8)
    return shown
