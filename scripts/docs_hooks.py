"""What `mkdocs build` does besides: measured reports as pages, and equations as MathML.

Equations are converted here, so that the site needs no script from anywhere to show them.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
REPORTS = "benchmarks/reports"
_EQUATION = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the reports of benchmarks, which lie outside docs/, as reports/NAME."""
    for path in sorted((ROOT / REPORTS).iterdir()):
        if path.suffix in (".md", ".png"):
            files.append(
                File.generated(config, f"reports/{path.name}", abs_src_path=str(path.resolve()))
            )
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links that work in a checkout to where the reports are in the site."""
    return markdown.replace(f"../{REPORTS}/", "reports/")


def on_page_content(content: str, **_: Any) -> str:
    """Turn the TeX that arithmatex has marked into MathML."""
    return _EQUATION.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found["tag"] == "div" else "inline"
    return str(convert(html.unescape(found["tex"]).strip(), display=display))
