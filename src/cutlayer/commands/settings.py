"""`cutlayer settings`: what a job can say, each setting with its default and an explanation."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cutlayer.commands.console import console
from cutlayer.errors import JobError

if TYPE_CHECKING:
    from cutlayer.settings.explanations import ExplainedSection


def settings(
    section: Annotated[
        str | None,
        typer.Argument(help="A section or a setting, as in world.mobility or training.lr."),
    ] = None,
) -> None:
    """All settings of a job, or those of a section: what each may be, its default, what it does."""
    from cutlayer.job import Job
    from cutlayer.settings.explanations import explain

    for found in chosen(list(explain(Job)), section):
        console.print(_table(found))


def chosen(sections: list[ExplainedSection], wanted: str | None) -> list[ExplainedSection]:
    """The sections at and below the path `wanted`, or the one setting that it names.

    Raises JobError where there is neither.
    """
    if wanted is None:
        return sections
    below = [s for s in sections if f"{s.path}.".startswith(f"{wanted}.")]
    if below:
        return below
    from cutlayer.settings.explanations import ExplainedSection

    path, _, name = wanted.rpartition(".")
    for section in sections:
        alone = tuple(one for one in section.settings if one.name == name)
        if section.path == path and alone:
            return [ExplainedSection(section.path, section.purpose, alone)]
    known = [s.path for s in sections if s.path]
    every = [*known, *(f"{s.path}.{one.name}".lstrip(".") for s in sections for one in s.settings)]
    near = difflib.get_close_matches(wanted, every, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"sections are {', '.join(known)}"
    raise JobError(f"settings: {wanted!r} is no section and no setting of a job; {remedy}")


def _table(section: ExplainedSection) -> Table:
    table = Table(
        title=f"[bold]{escape(section.path or 'job')}[/]: {escape(section.purpose)}",
        title_style="",
        title_justify="left",
        expand=True,
    )
    table.add_column("setting", no_wrap=True)
    table.add_column("may be", ratio=1)
    table.add_column("default", max_width=14, overflow="fold")
    table.add_column("what it does", ratio=3)
    for one in section.settings:
        table.add_row(*map(escape, (one.name, one.kind, one.default, one.explanation)))
    return table
