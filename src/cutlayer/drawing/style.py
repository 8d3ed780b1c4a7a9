"""What all figures share: colours, markers, sizes, and how a figure becomes a file."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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


def why_no_figures() -> str | None:
    """A sentence where what draws is not installed, as after a plain `pip install cutlayer`."""
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
def new_figure(path: Path, width: float = 8.0, height: float = 5.0) -> Iterator[Figure]:
    """A figure that is written to `path`, whole or not at all, when the block ends.

    Within `formats`, to a file of each format, by its ending. Raises OSError where it cannot be
    written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure
        for ending in _FORMATS.get():
            write_atomically(path.with_suffix(f".{ending}"), rendered(figure, ending))


def rendered(figure: Figure, ending: str) -> bytes:
    """The file of a figure in the format of this ending."""
    stream = io.BytesIO()
    figure.savefig(stream, format=ending)
    return stream.getvalue()


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
