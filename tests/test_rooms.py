"""Imports between the rooms of the package, and between their sub-rooms, point one way."""

import ast
import re
from pathlib import Path

import pytest

import cutlayer

ROOT = Path(cutlayer.__file__).parent

# From the ground up. A room may import from rooms on lines above its own; rooms of one line do not
# know each other. A name with a dot is a sub-room, which its own line places in its room.
FLOORS = (
    ("errors", "files", "seeds", "fingerprint", "harmless", "passage", "plain_yaml", "resize"),
    ("own_code",),
    ("settings",),
    ("methods",),
    ("job",),
    ("model", "wire", "data", "world", "allocate", "secure_sum"),
    ("record", "train"),
    ("light",),
    ("programs",),
    ("drawing",),
    ("planning.calibration",),
    ("planning.leakage",),
    ("planning.known",),
    ("planning.allocators",),
    ("planning",),
    ("rounds",),
    ("reports.views",),
    ("reports", "simulation", "generation", "inference"),
    ("privacy",),
    ("network.transport",),
    ("network",),
    ("network.device", "network.server"),
    ("dashboard",),
    ("commands",),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(parts: tuple[str, ...]) -> str:
    """The room that a file of the package, or a module that it imports, stands in."""
    sub_room = ".".join(parts[:2])
    return sub_room if sub_room in FLOOR_OF else parts[0]


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, *parts = name.split(".")
            if package == "cutlayer" and parts and parts != ["__version__"]:
                rooms.add(room_of(tuple(parts)))
    return rooms - {"assets"}


def test_every_room_has_its_floor_and_every_floor_its_rooms() -> None:
    there = {room_of(p.relative_to(ROOT).with_suffix("").parts) for p in FILES}
    assert there - {"assets", "__init__", "__main__"} == set(FLOOR_OF)


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.parent != ROOT or p.stem in FLOOR_OF],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_room_imports_only_from_the_floors_below_it(path: Path) -> None:
    room = room_of(path.relative_to(ROOT).with_suffix("").parts)
    if room == "assets":
        return
    above = {r for r in imported_rooms(path) - {room} if FLOOR_OF[r] >= FLOOR_OF[room]}
    assert not above, f"{room} stands on no floor above {above}"


@pytest.mark.parametrize("folder", ["src", "docs", "benchmarks"])
def test_what_was_inferred_is_said_in_words(folder: str) -> None:
    """Marks like [I] say nothing to whoever has not read the design."""
    root = ROOT.parents[1] / folder
    texts = [p for p in root.rglob("*") if p.suffix in (".py", ".md")]
    assert [p for p in texts if re.search(r"(?<!\w)\[I(\]|:)", p.read_text())] == []


def test_files_that_a_room_names_in_its_header_are_there() -> None:
    there = {path.name for path in FILES}
    for path in ROOT.rglob("__init__.py"):
        header = ast.get_docstring(ast.parse(path.read_text())) or ""
        named = set(re.findall(r"\b\w+\.py\b", header))
        assert named <= there, f"{path.parent.name} names {sorted(named - there)}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/how-it-works.md"])
def test_a_map_of_the_code_has_the_rooms_that_there_are(page: str) -> None:
    drawn = (ROOT.parents[1] / page).read_text().split("```")[1]
    for room in {room.partition(".")[0] for room in FLOOR_OF}:
        assert f"{room}/" in drawn or f"{room}.py" in drawn, f"the map of {page} has no {room}"
    there = {path.name for path in FILES} | {f"{path.parent.name}/" for path in FILES}
    named = set(re.findall(r"\b\w+(?:/|\.py\b)", drawn))
    assert named - {"cutlayer/"} <= there, f"{page} names {sorted(named - there)}"


def test_what_contributing_names_is_there() -> None:
    """Each row of the table names files and names that there are."""
    text = (ROOT.parents[1] / "CONTRIBUTING.md").read_text()
    sources = "\n".join(path.read_text() for path in FILES)
    rows = text.split("## To change X, open Y")[1].partition("## ")[0]
    for quoted in re.findall(r"`([\w./-]+)`", rows):
        if "/" in quoted or quoted.endswith(".py"):
            there = (ROOT / quoted, ROOT.parents[1] / quoted)
            assert any(path.exists() for path in there), f"there is no {quoted}"
        elif not quoted.startswith("-"):
            name = quoted.rpartition(".")[2]
            assert re.search(rf"\b(def|class) {name}\b", sources), f"nothing is called {quoted}"


def test_the_header_of_resizing_names_all_who_resize() -> None:
    header = (ROOT / "resize.py").read_text().partition('"""')[2].partition('"""')[0]
    texts = {path.relative_to(ROOT): path.read_text() for path in FILES if path.stem != "resize"}
    imports = re.compile(r"^from cutlayer(\.resize)? import .*(resize|fitted|resized)", re.M)
    calls = re.compile(r"\b(fitted|resized)(_array)?\(")
    callers = [path for path, text in texts.items() if imports.search(text) and calls.search(text)]
    assert len(callers) >= 4
    for path in callers:
        assert str(path) in header, f"resize.py does not say that {path} calls it"
