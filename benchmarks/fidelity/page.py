"""What a section of the page is made of, and how numbers are written in it."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cutlayer.drawing import tables


@dataclass(frozen=True)
class Claim:
    """One line: what is claimed, the paper's number or word, ours, and why they differ."""

    claim: str
    paper: str
    measured: str
    why: str


@dataclass(frozen=True)
class Section:
    """A heading, a few sentences, a table of claims, and details below it (tables, figures)."""

    title: str
    text: str
    claims: tuple[Claim, ...]
    details: str = ""

    def markdown(self) -> str:
        """The section as Markdown; ends with a newline."""
        columns = [
            tables.Column(key, title, "text")
            for key, title in (
                ("claim", "claim"),
                ("paper", "paper"),
                ("measured", "measured"),
                ("why", "why they differ"),
            )
        ]
        parts = [f"## {self.title}", _wrapped(self.text)]
        if self.claims:
            parts.append(tables.markdown([vars(claim) for claim in self.claims], columns).strip())
        parts.append(_wrapped(self.details))
        return "\n\n".join(part for part in parts if part) + "\n"


def _wrapped(text: str) -> str:
    """Paragraphs in lines of 100 letters; tables and figures as they are."""
    blocks = re.split(r"\n\n+", text.strip())
    return "\n\n".join(
        block if block.startswith(("|", "!")) else textwrap.fill(block, 100, break_on_hyphens=False)
        for block in blocks
    )


def table(rows: Sequence[dict[str, Any]], *columns: tuple[str, str, tables.Kind]) -> str:
    """A Markdown table of rows, its columns given as (key, title, kind)."""
    return tables.markdown(rows, [tables.Column(*column) for column in columns])


def spread(values: npt.ArrayLike, decimals: int = 1, unit: str = "") -> str:
    """Mean and standard deviation: "12.3 ± 0.4"; "-" of nothing."""
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        return tables.MISSING
    return f"{numbers.mean():.{decimals}f} ± {numbers.std():.{decimals}f}{unit}"


def middle(values: npt.ArrayLike, decimals: int = 1, unit: str = "") -> str:
    """Median and range: "12.3 (10.1 to 19.9)"; "-" of nothing."""
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        return tables.MISSING
    low, mid, high = (
        f"{v:.{decimals}f}" for v in (numbers.min(), np.median(numbers), numbers.max())
    )
    return f"{mid}{unit} ({low} to {high})"
