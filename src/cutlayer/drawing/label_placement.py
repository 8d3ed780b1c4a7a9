"""Places the texts beside points of a plot so that they hide neither each other nor the data.

adjustText moves them apart; what is still in the way of another is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

ITERATIONS = 100
"""A number and not a time, so that the same figure comes out the same on any machine."""

FAR = 14
"""Pixels from a text to its point from which on a line joins the two."""

APART = 8
"""Pixels between the places along a line that texts keep off."""


@dataclass(frozen=True)
class Note:
    """A text for the point (x, y), in data units, in a darker shade of `colour`.

    A strong text is bold, and written even where there is no free place.
    """

    x: float
    y: float
    text: str
    colour: str
    strong: bool = False


def annotate(figure: Figure, axes: Axes, notes: Sequence[Note], size: float = 9) -> None:
    """Write the notes beside their points, off all points and lines, with a thin line to far ones.

    A note that is not strong is left out where it would overlap one before it.
    """
    from adjustText import adjust_text

    if not notes:
        return
    figure.draw_without_rendering()  # settles the layout that places depend on
    texts = [_write(axes, note, size) for note in notes]
    lines = _along_lines(axes)
    adjust_text(
        texts,
        x=np.concatenate([lines[:, 0], [note.x for note in notes]]),
        y=np.concatenate([lines[:, 1], [note.y for note in notes]]),
        target_x=[note.x for note in notes],
        target_y=[note.y for note in notes],
        ax=axes,
        iter_lim=ITERATIONS,
    )
    kept: list[Bbox] = []
    for text, note in zip(texts, notes, strict=True):
        box = text.get_window_extent()
        if not note.strong and any(box.overlaps(other) for other in kept):
            text.remove()
            continue
        kept.append(box)
        _join(axes, text, note)


def _write(axes: Axes, note: Note, size: float) -> Text:
    from matplotlib.colors import to_rgb

    text = axes.text(
        note.x,
        note.y,
        note.text,
        fontsize=size,
        fontweight="bold" if note.strong else "normal",
        color=tuple(0.7 * part for part in to_rgb(note.colour)),
        zorder=5,
    )
    text.set_in_layout(False)
    return text


def _along_lines(axes: Axes) -> npt.NDArray[np.float64]:
    """Places along the lines of the plot, in data units [n, 2]."""
    places = [np.empty((0, 2))]
    for line in axes.lines:
        corners = line.get_transform().transform(line.get_path().vertices)
        if line.get_drawstyle() == "steps-post":
            middle = np.column_stack([corners[1:, 0], corners[:-1, 1]])
            corners = np.insert(corners, np.arange(1, len(corners)), middle, axis=0)
        for start, end in itertools.pairwise(corners):
            steps = max(2, int(np.hypot(*(end - start)) // APART))
            places.append(np.linspace(start, end, steps))
    return axes.transData.inverted().transform(np.concatenate(places))


def _join(axes: Axes, text: Text, note: Note) -> None:
    """A thin line from a text to its point, where it lies far from it."""
    at, box = axes.transData.transform((note.x, note.y)), text.get_window_extent()
    away = np.maximum(np.maximum(box.min - at, at - box.max), 0)
    if np.hypot(*away) < FAR:
        return
    axes.annotate(
        "",
        (note.x, note.y),
        xytext=text.get_position(),
        arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.7, "patchA": text},
        zorder=1,
    ).set_in_layout(False)
