"""The figure of a calibration: how much survives each cut, by tokens and bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cutlayer.drawing.style import COLOURS, GREY, LINES, MARKERS, legend, new_figure

Floats = npt.NDArray[np.float64]


def agreement(
    cuts: Sequence[int],
    tokens: Sequence[int],
    bits: Sequence[float],
    share: Floats,
    importance: Mapping[int, Floats],
    samples: int,
    path: Path,
) -> None:
    """A panel for each cut: the share [cuts, tokens, bits] of predictions that stay as they are.

    importance: by cut, [N + 1], drawn beside it: the attention that the tokens kept hold.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    columns = 2 if len(cuts) in (2, 4) else min(3, len(cuts))
    lines = math.ceil(len(cuts) / columns)
    with new_figure(path, width=max(5.5, 3.6 * columns), height=1.0 + 3.0 * lines) as figure:
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for panel in panels[len(cuts) :]:
            panel.remove()
        for index, (axes, cut) in enumerate(zip(panels, cuts, strict=False)):
            labelled = index == 0  # one legend for all panels
            if cut in importance:
                axes.plot(
                    range(tokens[0], tokens[-1] + 1),
                    100 * importance[cut][tokens[0] :],
                    color=GREY,
                    linewidth=4,
                    alpha=0.4,
                    label="attention kept" if labelled else None,
                )
            for q, width in enumerate(bits):
                axes.plot(
                    tokens,
                    100 * share[index, :, q],
                    color=COLOURS[q % len(COLOURS)],
                    marker=MARKERS[q % len(MARKERS)],
                    linestyle=LINES[q % len(LINES)],
                    markersize=5,
                    markeredgecolor="white",
                    linewidth=1.6,
                    label=f"{width:g} bit" + "s" * (width != 1) if labelled else None,
                )
            if len(tokens) > 1:
                axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(list(tokens)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.set_ylim(0, 103)
            axes.set_title(
                f"cut after block {cut}" if cut else "cut after the embedding", loc="left"
            )
            # The last panel of a column has the numbers, also where the row below is not full.
            below = index + columns >= len(cuts)
            axes.tick_params(labelbottom=below)
            if below:
                axes.set_xlabel("tokens kept")
            if index % columns == 0:
                axes.set_ylabel("predictions kept (%)")
        figure.suptitle(
            f"What survives the cut, on {samples} samples", x=0.01, ha="left", fontsize=12
        )
        legend(figure)
