"""The list of hashes holds what constraints.txt pins."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pins(text: str) -> set[str]:
    """name==version of each line, by the one spelling of a name."""
    found = set()
    for line in text.splitlines():
        if line and not line.startswith(("#", "torch==")):
            name, _, version = line.split(" ")[0].partition("==")
            found.add(f"{re.sub('[-_.]+', '-', name).lower()}=={version}")
    return found


def test_every_pin_but_torchs_has_a_hash() -> None:
    locked = (ROOT / "hashes-linux-x86_64-cp311.txt").read_text()
    assert pins(locked) == pins((ROOT / "constraints.txt").read_text())
    hashes = [line for line in locked.splitlines() if not line.startswith("#")]
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}$", line) for line in hashes)
