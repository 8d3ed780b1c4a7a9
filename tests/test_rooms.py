"""Imports between the rooms of the package point one way."""

import ast
from pathlib import Path

import pytest

import cutlayer

ROOT = Path(cutlayer.__file__).parent
BASE = {"errors", "files", "seeds"}
SETTINGS = BASE | {"methods", "job"}
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "seeds": set(),
    "methods": BASE,
    "job": BASE | {"methods", "world"},
    "model": SETTINGS,
    "wire": SETTINGS,
    "data": SETTINGS,
    "report": SETTINGS | {"allocate"},
    "world": BASE | {"methods"},
    "allocate": SETTINGS,
    "train": SETTINGS | {"model", "wire", "data", "allocate"},
    "net": SETTINGS | {"wire"},
    "run": SETTINGS | {"model", "wire", "data", "world", "report", "train", "allocate", "net"},
    "dashboard": SETTINGS | {"report", "run", "net"},
    "cli": SETTINGS | {"model", "wire", "data", "report", "train", "run", "net", "dashboard"},
}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if (parts[0] == "cutlayer" and len(parts) > 1 and (ROOT / parts[1]).is_dir()) or (
                parts[0] == "cutlayer" and len(parts) > 1 and (ROOT / f"{parts[1]}.py").is_file()
            ):
                rooms.add(parts[1])
    return rooms


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room = room_of(path)
    if room in ("assets", "__main__"):
        return
    assert imported_rooms(path) - {room} <= MAY_IMPORT[room]
