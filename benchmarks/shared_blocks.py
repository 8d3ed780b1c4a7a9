"""Blocks of figures that a page of docs/ shows just as a report has them.

Both have the lines of the block between two marks that name the report, as
`<!-- figures of audit.md: begin -->`. The report's script writes both, so that no figure on a page
is typed by hand; tests/test_benchmark_findings.py holds them equal.
"""

from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def marked(report: str, text: str) -> str:
    """`text` between the marks of a report, which is a file's name."""
    begin, end = _marks(report)
    return f"{begin}\n{text.strip()}\n{end}\n"


def copy_block(report: Path, page: Path) -> None:
    """Replace the report's block in a page by that of the report as it is now."""
    text = page.read_text(encoding="utf-8")
    old = block_of(report.name, text)
    new = block_of(report.name, report.read_text(encoding="utf-8"))
    page.write_text(text.replace(old, new), encoding="utf-8")


def block_of(report: str, text: str) -> str:
    """The block of a report in a text, with its marks. ValueError where there is none."""
    begin, end = _marks(report)
    start = text.index(begin)
    return text[start : text.index(end, start) + len(end)]


def _marks(report: str) -> tuple[str, str]:
    return f"<!-- figures of {report}: begin -->", f"<!-- figures of {report}: end -->"
