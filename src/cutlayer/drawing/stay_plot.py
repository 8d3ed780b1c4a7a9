"""The figure of stay times: what vehicles did, against what models said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cutlayer.drawing.style import COLOURS, GREY, legend, new_figure

Floats = npt.NDArray[np.float64]
_MOST = 2000


def draw_stays(seen_s: Floats, radial_s: Floats, straight_s: Floats, path: Path) -> None:
    """Stay times [n] as seen in a trace, against the radial and the straight model.

    Of many, every k-th is drawn; the medians in the legend are of all.
    """
    chosen = slice(None, None, -(-len(seen_s) // _MOST))
    longest = float(seen_s.max())
    with new_figure(path, width=7.0, height=6.0) as figure:
        axes = figure.subplots()
        axes.plot([0, longest], [0, longest], color=GREY, linestyle="--", label="as it was")
        for model_s, name, colour, marker in (
            (radial_s, "(L - l) / v", COLOURS[1], "s"),
            (straight_s, "keeps heading and speed", COLOURS[0], "o"),
        ):
            off = float(np.median(np.abs(model_s - seen_s)))
            axes.scatter(
                seen_s[chosen],
                model_s[chosen],
                s=9,
                alpha=0.5,
                linewidth=0,
                color=colour,
                marker=marker,
                label=f"{name}: off by {off:.2g} s (median)",
            )
        axes.set_xlim(0, 1.03 * longest)
        axes.set_ylim(0, 1.15 * longest)  # a vehicle in a jam would stay for ever
        axes.set_xlabel("stayed in coverage (s)")
        axes.set_ylabel("by the model (s)")
        axes.set_title(f"Stay times, {len(seen_s):,} sightings", loc="left")
        legend(figure)
