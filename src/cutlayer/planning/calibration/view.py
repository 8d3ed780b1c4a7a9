"""What `cutlayer calibrate` reads from its options and shows: a bar, then a table.

A notebook shows the same table and sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.drawing import tables
from cutlayer.drawing.tables import Column
from cutlayer.errors import JobError, RunError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from cutlayer.planning.calibration.record import Calibration


def numbers(option: str, text: str | None) -> list[int] | None:
    """The numbers of `--cuts 1,2,4`; None where the option was not given. Raises JobError."""
    return None if text is None else [_number(option, word) for word in text.split(",")]


def token_numbers(option: str, text: str | None) -> list[int | None] | None:
    """The numbers of `--tokens 8,16,all`, None among them for all. Raises JobError."""
    if text is None:
        return None
    words = text.split(",")
    return [None if word.strip() == "all" else _number(option, word) for word in words]


def values(option: str, text: str | None) -> list[float] | None:
    """The numbers of `--bits 2,4` or `--bits 0.25,0.5`; None where the option was not given. Raises
    JobError.
    """
    if text is None:
        return None
    try:
        return [float(word) if "." in word else int(word) for word in text.split(",")]
    except ValueError:
        raise JobError(
            f"{option}: {text!r} are no numbers: separate numbers by commas, as in {option} 2,4"
        ) from None


def _number(option: str, word: str) -> int:
    word = word.strip()
    if not (word.isascii() and word.isdigit()):
        raise JobError(
            f"{option}: {word!r} is no whole number: separate numbers by commas, as in {option} 2,4"
        )
    return int(word)


@contextmanager
def bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A live bar, in a terminal only; yields the function that moves it."""
    from cutlayer.drawing.progress_bar import make_bar

    with make_bar(console) as shown:
        task = shown.add_task("reading model and data", total=None)
        now = ""

        def move(what: str, done: int, steps: int) -> None:
            nonlocal task, now
            if what != now:  # the time left is of this stage only
                shown.remove_task(task)
                task, now = shown.add_task(what, total=steps), what
            shown.update(task, completed=done)

        yield move


def table(found: Calibration) -> Table:
    """The agreement as a table for a terminal: see `rows`."""
    return tables.render(rows(found), columns(found), title(found))


def title(found: Calibration) -> str:
    """What the table shows, in which numbers."""
    kind = found.subject.precision
    return "Predictions that stay as they are" + (
        "" if kind == "float32" else f" where devices compute in {kind}"
    )


def columns(found: Calibration) -> tuple[Column, ...]:
    """Cut and tokens, then a column for each number of bits, then the attention that is kept."""
    bits = [
        Column(f"{width}", f"{width:g} bit" + "s" * (width != 1), "percent") for width in found.bits
    ]
    return (
        Column("cut", "cut", "text"),
        Column("tokens", "tokens", "count"),
        *bits,
        Column("share", "attention", "percent"),
    )


def rows(found: Calibration) -> list[dict[str, Any]]:
    """A row for each cut and number of tokens: the share of predictions that stay as they are.

    They are compared with those of the unsplit model in float32.
    """
    shown = []
    for c, cut in enumerate(found.cuts):
        possible = [k for k in range(len(found.tokens)) if not np.isnan(found.agreement[c, k, 0])]
        for k in possible:
            kept = found.tokens[k]
            share = found.importance[cut][kept] if cut else None
            values = dict(zip(map(str, found.bits), found.agreement[c, k].tolist(), strict=True))
            first = str(cut) if k == possible[0] else ""
            shown.append({"cut": first, "tokens": kept, "share": share, **values})
    return shown


def sentences(found: Calibration) -> list[str]:
    """Sentences on what was measured, and on which samples."""
    head = "with the trained head"
    if found.adapter is None:
        head = f"with a linear head fitted to {found.head_samples} others"
    return [
        f"{found.samples} samples of the calibration data (data.calibration), {head}: uncompressed "
        "accuracy "
        f"{100 * found.accuracy[0, -1, -1]:.1f} %",
        "attention: the share of a sample's scores that the tokens kept hold",
    ]


def draw(found: Calibration, path: Path) -> None:
    """The figure of a record. Raises RunError where it cannot be written."""
    from cutlayer.drawing.calibration_plot import agreement

    cells = (found.cuts, found.tokens, found.bits, found.agreement)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        agreement(*cells, found.importance, found.samples, path)
    except OSError as error:
        raise RunError(
            f"--figure: cannot write {path} ({error.strerror}): give another file"
        ) from None
