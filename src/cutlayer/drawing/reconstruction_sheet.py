"""A sheet of images that attacks made: a column for each attack, a row for each image attacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cutlayer.drawing.style import new_figure

ROWS = 8
_INCHES = 0.82


def draw_sheet(
    columns: Mapping[str, npt.NDArray[np.float32]], names: Sequence[str], path: Path
) -> None:
    """Draw the first ROWS images of each column [n, C, R, R], 0 to 1, by the columns' titles.

    names: of the images. Raises OSError where `path` cannot be written.
    """
    rows = min(ROWS, len(names))
    width, height = 1.2 + _INCHES * len(columns), 0.7 + _INCHES * rows
    with new_figure(path, width=width, height=height) as figure:
        grid = figure.subplots(rows, len(columns), squeeze=False)
        for column, (title, images) in enumerate(columns.items()):
            for row in range(rows):
                axes = grid[row, column]
                picture = images[row].transpose(1, 2, 0)
                grey = picture.shape[2] == 1
                axes.imshow(picture[:, :, 0] if grey else picture, cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
            grid[0, column].set_title(title, fontsize=8)
        for row in range(rows):
            grid[row, 0].set_ylabel(names[row], fontsize=8, rotation=0, ha="right", va="center")
