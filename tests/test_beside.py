"""What stands beside the package (benchmarks, scripts, examples, tables) imports what there is."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    path
    for folder in ("benchmarks", "scripts", "examples", "publications")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# In the text and not the syntax tree: some benchmarks hold code for processes of their own.
IMPORT = re.compile(r"^ *from (cutlayer[\w.]*) import (?:\(([^)]*)\)|([^(\n]+))$", re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_from_cutlayer_is_there(path: Path) -> None:
    for module, several, one in IMPORT.findall(path.read_text()):
        for name in re.sub(r"#.*", "", several or one).split(","):
            if wanted := name.split(" as ")[0].strip():
                found = importlib.import_module(module)
                if not hasattr(found, wanted):
                    importlib.import_module(f"{module}.{wanted}")
