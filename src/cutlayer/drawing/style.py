"""What all figures share: colours, markers, sizes, and how a figure becomes a file."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.errors import missing_package
from cutlayer.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, the yellow left out: it is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
GREY = "#777777"
DPI = 150
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.handlelength": 3.4,
    "savefig.dpi": "figure",
    "pdf.fonttype": 42,  # fonts that journals accept
}
_FORMATS: ContextVar[tuple[str, ...]] = ContextVar("formats", default=("png",))
FORMATS = ("png", "svg", "pdf")
"""What a figure can be written as."""

_PRINTED_POINTS = 8.0
_LOWEST = 3.6
"""Inches below which the height of a column's figure does not follow its width."""


@dataclass(frozen=True)
class Column:
    """The column of a paper that figures are drawn for.

    width_in: its width in inches. font: the name of an installed font; None: matplotlib's own.
    """

    width_in: float
    font: str | None = None


_COLUMN: ContextVar[Column | None] = ContextVar("column", default=None)


def why_no_figures() -> str | None:
    """A sentence where what draws is not installed, as with the extra `train` alone."""
    for package in ("matplotlib", "adjustText"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            return f"no figures are drawn: {missing_package(error) or error}"
    return None


@contextmanager
def formats(*endings: str) -> Iterator[None]:
    """Write every figure of the block in each of these formats, such as "png", "svg" or "pdf"."""
    token = _FORMATS.set(endings)
    try:
        yield
    finally:
        _FORMATS.reset(token)


@contextmanager
def in_column(column: Column | None) -> Iterator[None]:
    """Draw every figure of the block as wide as a paper's column, in letters of 8 points.

    Titles are left out: a paper has them in its captions. None: as on a page of its own. Raises
    ValueError where the font is not installed.
    """
    if column is not None and column.font is not None:
        from matplotlib.font_manager import findfont

        findfont(column.font, fallback_to_default=False)
    token = _COLUMN.set(column)
    try:
        yield
    finally:
        _COLUMN.reset(token)


@contextmanager
def new_figure(path: Path, width: float = 8.0, height: float = 5.0) -> Iterator[Figure]:
    """A figure that is written to `path`, whole or not at all, when the block ends.

    Within `formats`, to a file of each format, by its ending; within `in_column`, as wide as the
    column. Raises OSError where it cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    column = _COLUMN.get()
    style, shrink = STYLE, 1.0
    if column is not None:
        # Drawn larger and then shrunk as a whole, letters included, so that what was placed apart
        # stays apart.
        shrink = _PRINTED_POINTS / STYLE["font.size"]
        narrow = column.width_in / shrink
        width, height = narrow, max(height * narrow / width, min(height, _LOWEST))
        style = STYLE if column.font is None else STYLE | {"font.family": column.font}
    with rc_context(style):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure
        if column is not None:
            _shrink(figure, shrink)
        for ending in _FORMATS.get():
            write_atomically(path.with_suffix(f".{ending}"), rendered(figure, ending))


def rendered(figure: Figure, ending: str) -> bytes:
    """The file of a figure in the format of this ending."""
    stream = io.BytesIO()
    figure.savefig(stream, format=ending)
    return stream.getvalue()


def _shrink(figure: Figure, factor: float) -> None:
    """Make a figure smaller with all its letters, lines and marks, and without its titles."""
    from matplotlib.collections import PathCollection
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    figure.suptitle("")
    for axes in figure.axes:
        axes.set_title("", loc="left")
    figure.set_size_inches(*(factor * figure.get_size_inches()))
    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_fontsize(factor * float(artist.get_fontsize()))
        elif isinstance(artist, Line2D):
            artist.set_linewidth(factor * artist.get_linewidth())
            artist.set_markersize(factor * artist.get_markersize())
        elif isinstance(artist, PathCollection):
            artist.set_sizes(factor**2 * artist.get_sizes())


def legend(figure: Figure) -> None:
    """Below the axes, where it hides nothing, in as many columns as the width holds."""
    labels = [label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
    if labels:
        # About 12 letters an inch; a line's sample takes the room of nine.
        columns = int(12 * figure.get_figwidth() / (max(map(len, labels)) + 9))
        figure.legend(loc="outside lower center", ncols=min(3, max(1, columns)))


def plain_log(axes: Axes) -> None:
    """Plain numbers (0.5, 20, 1,000) on a logarithmic x axis; nothing on a linear one."""
    if axes.get_xscale() != "log":
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    few = high / low < 100
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def digits(value: float) -> str:
    """Three significant digits, with thousands separated: 0.0123, 1.23, 123, 12,345."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"
