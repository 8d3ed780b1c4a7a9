"""Places the texts beside points of a plot so that they hide neither each other nor the data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

DISTANCES = (7, 14, 22, 32, 44, 58)
"""How far from its point a text may lie, in typographic points, tried in this order."""

ANGLES = (90, 0, 180, 270, 45, 135, 315, 225)

LEADER = 14
"""From this distance on a thin line joins the text and its point."""

HALF_DOT = 5
"""Half the side of the square kept free around a point, in typographic points."""


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
    """Write the notes beside their points, each in the first free place, in their order.

    Free is a place inside the axes, off all points and lines and off the texts before. A note
    that is not strong is left out when there is none.
    """
    from matplotlib.colors import to_rgb

    figure.draw_without_rendering()  # settles the layout that places depend on
    taken = _obstacles(figure, axes, notes)
    inside = axes.get_window_extent()
    for note in notes:
        text = axes.annotate(
            note.text,
            (note.x, note.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=size,
            fontweight="bold" if note.strong else "normal",
            color=tuple(0.7 * part for part in to_rgb(note.colour)),
            zorder=5,
        )
        text.set_in_layout(False)
        for distance, angle in itertools.product(DISTANCES, ANGLES):
            dx, dy = (distance * f(math.radians(angle)) for f in (math.cos, math.sin))
            text.set(
                position=(dx, dy),
                ha="center" if abs(dx) < 1 else "left" if dx > 0 else "right",
                va="center" if abs(dy) < 1 else "bottom" if dy > 0 else "top",
            )
            if _free(text.get_window_extent(), inside, taken):
                break
        else:
            if not note.strong:
                text.remove()
                continue
            distance = DISTANCES[0]
            text.set(position=(0, distance), ha="center", va="bottom")
        if distance >= LEADER:
            axes.annotate(
                "",
                (note.x, note.y),
                xytext=text.get_position(),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.7},
                zorder=1,
            ).set_in_layout(False)
        taken.append(text.get_window_extent())


def _obstacles(figure: Figure, axes: Axes, notes: Sequence[Note]) -> list[Bbox]:
    """Squares around the points and small ones along the lines, in pixels."""
    from matplotlib.transforms import Bbox

    half = HALF_DOT * figure.dpi / 72
    spots = [(axes.transData.transform((note.x, note.y)), half) for note in notes]
    for line in axes.lines:
        path = line.get_path()
        corners = line.get_transform().transform(path.vertices)
        if line.get_drawstyle() == "steps-post":
            middle = np.column_stack([corners[1:, 0], corners[:-1, 1]])
            corners = np.insert(corners, np.arange(1, len(corners)), middle, axis=0)
        for start, end in itertools.pairwise(corners):
            steps = max(2, int(np.hypot(*(end - start)) // 4))
            spots += [(spot, 1.5) for spot in np.linspace(start, end, steps)]
    return [Bbox.from_bounds(x - reach, y - reach, 2 * reach, 2 * reach) for (x, y), reach in spots]


def _free(box: Bbox, inside: Bbox, taken: Sequence[Bbox]) -> bool:
    return (
        inside.x0 <= box.x0
        and box.x1 <= inside.x1
        and inside.y0 <= box.y0
        and box.y1 <= inside.y1
        and not any(box.overlaps(other) for other in taken)
    )
