"""Pictures of one round: when every stage happens on every device, and who gets what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cutlayer.drawing.style import COLOURS, GREY, digits, legend, new_figure, plain_log
from cutlayer.settings.units import in_own_unit

_HATCH = "////"
STAGE_LOOKS = {
    "broadcast": (COLOURS[5], ""),
    "forward": (COLOURS[0], ""),
    "uplink": (COLOURS[1], ""),
    "server": (GREY, ""),
    "tail_downlink": (COLOURS[3], _HATCH),
    "tail": (COLOURS[5], _HATCH),
    "tail_uplink": (COLOURS[1], _HATCH),
    "server_backward": (GREY, _HATCH),
    "downlink": (COLOURS[3], ""),
    "backward": (COLOURS[2], ""),
    "upload": (COLOURS[4], ""),
    "aggregation": (COLOURS[6], ""),
}
"""Colour and hatch of each stage; hatched are those of rounds whose last blocks are on devices.

`STAGES` in reports/assets/rounds.js has the same for the page.
"""
MOST_LINES = 60
"""More devices than these have no line in a timeline."""


class Stages(Protocol):
    """What is drawn of a round: the stages of a device, each with its start and end in seconds."""

    @property
    def duration_s(self) -> float:
        """Seconds that the round takes."""
        ...

    def spans(self, device: int) -> Sequence[Any]:
        """Stages of the device at a place, with stage, start_s and end_s."""
        ...


def gantt(round: Stages, devices: Sequence[int], path: Path) -> None:
    """A line a device, a bar a stage; of a large cohort the first sixty."""
    shown = list(devices)[:MOST_LINES]
    with new_figure(path, height=1.8 + 0.24 * len(shown)) as figure:
        axes = figure.subplots()
        for stage, (colour, hatch) in STAGE_LOOKS.items():
            bars = [
                (place, span.start_s, span.end_s - span.start_s)
                for place in range(len(shown))
                for span in round.spans(place)
                if span.stage == stage and span.end_s < float("inf")
            ]
            if bars:
                places, starts, widths = zip(*bars, strict=True)
                axes.barh(
                    places,
                    widths,
                    left=starts,
                    height=0.72,
                    color=colour,
                    hatch=hatch,
                    edgecolor="white",
                    linewidth=0,
                    label=stage.replace("_", " "),
                )
        axes.set_yticks(range(len(shown)), [str(device) for device in shown], fontsize=8)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("seconds since the round began")
        axes.set_ylabel("device")
        some = f", {len(shown)} of {len(devices)} devices" if len(shown) < len(devices) else ""
        axes.set_title(f"One round: {round.duration_s:.3g} s{some}", loc="left")
        legend(figure)


def shares(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bandwidth, power, tokens, bits and cut of each device against its distance.

    rows: those of `Plan.rows`; what is alike for all stands in the title.
    """
    panels = {
        "bandwidth_mhz": "bandwidth (MHz)",
        "power_mw": "power (mW)",
        "tokens": "tokens",
        "bits": "bits",
        "cut": "cut",
        "finish_s": "done after (s)",
    }
    values = {key: [row[key] for row in rows if row[key] is not None] for key in panels}
    alike = {key for key, found in values.items() if found and max(found) == min(found)}
    drawn = [key for key, found in values.items() if found and key not in alike] or ["finish_s"]
    with new_figure(path, height=1.4 + 1.5 * len(drawn)) as figure:
        grid = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for index, (axes, key) in enumerate(zip(grid, drawn, strict=True)):
            axes.scatter(
                [row["distance_m"] for row in rows],
                [row[key] for row in rows],
                color=COLOURS[index],
                s=26,
                edgecolor="white",
                linewidth=0.5,
            )
            axes.set_ylabel(panels[key], fontsize=9)
            if max(values[key]) > 50 * min(values[key]) > 0:
                axes.set_yscale("log")
            else:
                axes.set_ylim(0, 1.12 * max(values[key]))
        grid[-1].set_xlabel("distance from the server (m)")
        same = [f"{panels[key]} {values[key][0]:.3g}" for key in panels if key in alike]
        grid[0].set_title(
            "Who gets what" + (f"; all: {', '.join(same)}" if same else ""), loc="left"
        )


PANELS = {
    "round_s": "round (s)",
    "joules": "devices (J)",
    "sent": "up (MB)",
    "ste": "STE (1/s)",
    "devices": "devices in time",
    "tokens": "mean tokens",
    "bits": "mean bits",
    "cut": "mean cut",
}
"""What is drawn of a sweep, by the keys of its rows."""
SCALES = {"sent": 1e-6}
"""What a figure is multiplied by to be in the unit of its panel."""


def sweep(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """What plans come to against the values that were swept; gaps where there is no plan.

    Of one setting curves, of two heat maps. rows: those of `cutlayer.sweep`, with one number for
    each value.
    """
    found = {key: {row[key] for row in rows if row.get(key) is not None} for key in PANELS}
    drawn = [key for key in PANELS if len(found[key]) > 1] or ["round_s"]
    if len(rows[0]["settings"]) == 2:
        _maps(rows, drawn, path)
        return
    texts = [row["value"] for row in rows]
    numbers = _numbers(rows)
    with new_figure(path, height=1.4 + 1.5 * len(drawn)) as figure:
        grid = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
        for index, (axes, key) in enumerate(zip(grid, drawn, strict=True)):
            values = [_figure(row, key) for row in rows]
            axes.plot(
                numbers or range(len(rows)),
                values,
                color=COLOURS[index % len(COLOURS)],
                marker="o",
                linewidth=1.6,
            )
            axes.set_ylabel(PANELS[key], fontsize=9)
            axes.margins(y=0.15)
        if not numbers:
            grid[-1].set_xticks(range(len(rows)), texts)
        elif min(numbers) > 0 and max(numbers) > 20 * min(numbers):
            grid[-1].set_xscale("log")
            plain_log(grid[-1])
        if numbers and any(map(str.isalpha, (text[-1] for text in texts))):
            grid[-1].set_xticks(numbers, texts)
            grid[-1].minorticks_off()
        grid[-1].set_xlabel(rows[0]["field"])
        grid[0].set_title("One round, planned", loc="left")


def _maps(rows: Sequence[Mapping[str, Any]], drawn: Sequence[str], path: Path) -> None:
    """A heat map for each figure, with its numbers; combinations without a plan stay empty."""
    down, across = rows[0]["settings"]
    lines = list(dict.fromkeys(row["settings"][down] for row in rows))
    columns = list(dict.fromkeys(row["settings"][across] for row in rows))
    wide = 2 if len(drawn) > 1 else 1
    deep = -(-len(drawn) // wide)
    size = (1.6 + 0.9 * len(columns), 1.2 + 0.5 * len(lines))
    with new_figure(path, width=max(6, wide * size[0]), height=1 + deep * size[1]) as figure:
        grid = figure.subplots(deep, wide, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(drawn) :]:
            axes.set_visible(False)
        for axes, key in zip(grid.flat, drawn, strict=False):
            values = np.full((len(lines), len(columns)), np.nan)
            for row in rows:
                place = (lines.index(row["settings"][down]), columns.index(row["settings"][across]))
                values[place] = _figure(row, key)
            axes.grid(visible=False)
            axes.imshow(values, cmap="viridis", aspect="auto")
            there = values[np.isfinite(values)]
            middle = (there.min() + there.max()) / 2 if len(there) else 0.0
            for (line, column), value in np.ndenumerate(values):
                if np.isfinite(value):
                    ink = "black" if value > middle else "white"
                    text = digits(value)
                    axes.text(column, line, text, ha="center", va="center", color=ink, fontsize=8)
            axes.set_xticks(range(len(columns)), columns)
            axes.set_yticks(range(len(lines)), lines)
            axes.set_title(PANELS[key], loc="left", fontsize=10)
        figure.supxlabel(across)
        figure.supylabel(down)


def _figure(row: Mapping[str, Any], key: str) -> float:
    """A figure in the unit of its panel; NaN where there is none."""
    value = row.get(key)
    return float("nan") if value is None else value * SCALES.get(key, 1.0)


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The values of the one setting as numbers in its own unit; [] where one of them is none."""
    try:
        return [float(in_own_unit(*pair)) for row in rows for pair in row["settings"].items()]
    except ValueError:
        return []
