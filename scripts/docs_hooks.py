"""What `mkdocs build` does besides: reports as pages, all settings as tables, equations as MathML.

Equations are converted here, so that the site needs no script from anywhere to show them.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

import cutlayer
from cutlayer.job import Job
from cutlayer.settings.explanations import explain
from cutlayer.settings.generator import GeneratorTraining
from cutlayer.settings.section import Section

ROOT = Path(__file__).resolve().parents[1]
REPORTS = "benchmarks/reports"
TABLES = "publications"
SETTINGS = {
    "<!-- settings of a job -->": Job,
    "<!-- settings of cutlayer generator train -->": GeneratorTraining,
}
_EQUATION = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_config(config: Any, **_: Any) -> Any:
    """Name the version that the pages are about at the foot of each."""
    config.copyright = f"cutlayer {cutlayer.__version__}, {config.copyright}"
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add what lies outside docs/: reports of benchmarks as reports/NAME, the papers' tables as
    publications/NAME.
    """
    for path in sorted((ROOT / REPORTS).iterdir()):
        if path.suffix in (".md", ".png"):
            files.append(
                File.generated(config, f"reports/{path.name}", abs_src_path=str(path.resolve()))
            )
    for path in sorted((ROOT / TABLES).rglob("*.md")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path.resolve())))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links of a checkout to pages of the site, and write the tables of settings."""
    for marker, section in SETTINGS.items():
        if marker in markdown:
            markdown = markdown.replace(marker, settings_tables(section))
    if page.file.src_uri.startswith(f"{TABLES}/"):
        return markdown.replace("../docs/", "../").replace(f"../{REPORTS}/", "../reports/")
    return markdown.replace(f"../{REPORTS}/", "reports/").replace(f"../{TABLES}/", f"{TABLES}/")


def settings_tables(section: type[Section]) -> str:
    """A table for the section and for each below it: setting, what it may be, default, text."""
    lines = []
    for found in explain(section):
        if found.path:
            lines += [f"### {found.path}", "", html.escape(found.purpose), ""]
        if found.settings:
            lines += ["| setting | may be | default | what it does |", "|---|---|---|---|"]
        for one in found.settings:
            words = [
                html.escape(text).replace("|", "&#124;") for text in (one.kind, one.explanation)
            ]
            lines.append(f"| `{one.name}` | {words[0]} | `{one.default}` | {words[1]} |")
        lines.append("")
    return "\n".join(lines)


def on_page_content(content: str, **_: Any) -> str:
    """Turn the TeX that arithmatex has marked into MathML."""
    return _EQUATION.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found["tag"] == "div" else "inline"
    return str(convert(html.unescape(found["tex"]).strip(), display=display))
