"""The picture of who was selected and why not, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cutlayer.drawing.style import COLOURS, legend, new_figure
from cutlayer.record.rows import Row

TRAINED, NOT_DRAWN = "took part", "not drawn"
_PALE = "#EEEEEE"
_HATCHES = ("//", "..", "xx", "\\\\", "++", "oo")
_LONGEST = 36
_MOST = 80


@dataclass(frozen=True, eq=False)
class Selection:
    """kinds: what can become of a device in a round. cells: [M, rounds], indices into `kinds`."""

    kinds: tuple[str, ...]
    cells: npt.NDArray[np.int64]


def selection(rows: Sequence[Row], devices: int, most: int = _MOST) -> Selection:
    """What became of each device in each round; reasons are of the kind before their colon.

    Of a large fleet the first `most`.
    """
    fates: list[dict[int, str]] = []
    for row in rows:
        fate = dict.fromkeys(row.decisions, TRAINED)
        fate |= {device: _kind(reason) for device, reason in row.left_out.items()}
        fate |= dict.fromkeys(row.late, "too late")
        fate |= dict.fromkeys(row.lost, "lost")
        fates.append(fate)
    found = sorted({kind for fate in fates for kind in fate.values()} - {TRAINED})
    kinds = (TRAINED, *found, NOT_DRAWN)
    cells = [
        [kinds.index(fate.get(m, NOT_DRAWN)) for fate in fates] for m in range(min(devices, most))
    ]
    return Selection(kinds, np.array(cells, dtype=np.int64))


def draw_selection(rows: Sequence[Row], devices: int, path: Path) -> None:
    """A line a device, a square a round: who took part, and why others did not.

    Of a large fleet the first eighty, and of a long run the last eighty rounds.
    """
    from matplotlib.ticker import MaxNLocator

    shown = rows[-_MOST:]
    grid = selection(shown, devices)
    first, (lines, rounds) = shown[0].round + 1, grid.cells.shape
    with new_figure(
        path, width=max(6.0, 2.0 + 0.18 * rounds), height=max(3.2, 2.2 + 0.2 * lines)
    ) as figure:
        axes = figure.subplots()
        for index, kind in enumerate(grid.kinds):
            device, place = np.nonzero(grid.cells == index)
            plain = kind in (TRAINED, NOT_DRAWN)
            if len(device):
                axes.bar(
                    first + place,
                    1.0,
                    width=1.0,
                    bottom=device - 0.5,
                    color=_PALE if kind == NOT_DRAWN else COLOURS[index % len(COLOURS)],
                    hatch=None if plain else _HATCHES[(index - 1) % len(_HATCHES)],
                    edgecolor="white",
                    linewidth=0.6,
                    label=f"{kind} ({len(device)})",
                )
        axes.set_xlim(first - 0.5, first + rounds - 0.5)
        axes.set_ylim(lines - 0.5, -0.5)
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("round")
        axes.set_ylabel("device")
        mean = float(np.mean([len(row.cohort) - len({*row.late, *row.lost}) for row in shown]))
        axes.set_title(f"Who took part: {mean:.1f} of {devices} devices a round", loc="left")
        legend(figure)


def _kind(reason: str) -> str:
    kind = reason.partition(":")[0]
    return kind if len(kind) <= _LONGEST else kind[: _LONGEST - 1] + "\u2026"
