"""Sheets of images to look at: one row a class, in panels side by side, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cutlayer.drawing.style import new_figure

Images = npt.NDArray[np.uint8]

_GAP = 2
_CELL_INCHES = 0.5


def sheet(panels: Mapping[str, Images], names: Sequence[str], path: Path, title: str = "") -> None:
    """Draw panels of images by their titles, side by side with rows that belong together.

    panels: uint8 [rows, columns, C, H, W], C = 1 or 3, with equally many rows each. names: of the
    rows. Raises OSError where `path` cannot be written.
    """
    columns = [panel.shape[1] for panel in panels.values()]
    with new_figure(
        path,
        width=1.6 + _CELL_INCHES * sum(columns) + 0.3 * len(columns),
        height=0.9 + _CELL_INCHES * len(names),
    ) as figure:
        row = figure.subplots(1, len(panels), width_ratios=columns, squeeze=False)[0]
        for axes, (label, panel) in zip(row, panels.items(), strict=True):
            tiles = mosaic(panel)
            grey = tiles.shape[2] == 1
            axes.imshow(tiles[:, :, 0] if grey else tiles, cmap="gray", vmin=0, vmax=255)
            axes.set_title(label, fontsize=10)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.spines[:].set_visible(False)
        pitch = tiles.shape[0] / len(names)
        row[0].set_yticks([pitch * (i + 0.5) for i in range(len(names))], names, fontsize=9)
        row[0].tick_params(length=0)
        if title:
            figure.suptitle(title, fontsize=11)


def mosaic(panel: Images) -> Images:
    """One image [height, width, C] of a panel [rows, columns, C, H, W], white between."""
    rows, columns, channels, height, width = panel.shape
    high, wide = height + _GAP, width + _GAP
    tiles = np.full((rows * high, columns * wide, channels), 255, np.uint8)
    for i in range(rows):
        for j in range(columns):
            image = panel[i, j].transpose(1, 2, 0)
            tiles[i * high : i * high + height, j * wide : j * wide + width] = image
    return tiles
