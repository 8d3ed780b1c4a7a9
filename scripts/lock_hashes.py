"""Write the hashes of the packages in constraints.txt for this Python and platform, by pip.

    python scripts/lock_hashes.py hashes-linux-x86_64-cp311.txt

The file is written only once every pin has its hash. torch is left out: its CPU build is another
file than the registry's, and is installed by itself. To install what the list holds and nothing
else, after torch:

    pip install --require-hashes --no-deps -r hashes-linux-x86_64-cp311.txt
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Made by scripts/lock_hashes.py from constraints.txt."
APART = ("torch==",)


def pins_of(text: str) -> list[str]:
    """The lines name==version of a list of pins, or of one with hashes, but for torch's."""
    lines = (line.split(" ")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", *APART))]


def spelled(pin: str) -> str:
    """A pin by the one spelling of its package's name."""
    name, _, version = pin.partition("==")
    return f"{re.sub('[-_.]+', '-', name).lower()}=={version}"


def locked(pins: Sequence[str], report: dict[str, Any]) -> str:
    """The list: a line for each pin, its version and the SHA-256 of its file.

    report: pip's, of what it would install. Raises ValueError with one sentence where a pin has no
    hash there, or where pip would install what no pin names.
    """
    found = {}
    for one in report.get("install", []):
        pin = spelled(f"{one['metadata']['name']}=={one['metadata']['version']}")
        digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "")
        if re.fullmatch("[0-9a-f]{64}", digest):
            found[pin] = digest
    wanted = {spelled(pin): pin for pin in pins}
    if not wanted:
        raise ValueError("constraints.txt names no packages: give it lines name==version")
    if missing := [pin for name, pin in wanted.items() if name not in found]:
        raise ValueError(
            f"pip told no SHA-256 for {len(missing)} of {len(wanted)} pins, {missing[0]} the "
            "first: see whether the index has that version for this Python, and try again"
        )
    if extra := sorted(found.keys() - wanted.keys()):
        raise ValueError(
            f"pip would install {extra[0]}, which constraints.txt does not pin: pin it"
        )
    lines = [f"{wanted[pin]} --hash=sha256:{found[pin]}" for pin in sorted(found)]
    return "\n".join([HEADER, *lines]) + "\n"


def report_of(pins: Sequence[str]) -> dict[str, Any]:
    """What pip would install, with the hash of each file. Raises ValueError where pip fails."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, found = Path(folder) / "pins.txt", Path(folder) / "report.json"
        wanted.write_text("\n".join(pins))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]
        command += ["--ignore-installed", "--report", str(found), "-r", str(wanted)]
        if code := subprocess.run(command, stdout=sys.stderr).returncode:
            raise ValueError(f"pip ended with {code}: its own sentences stand above")
        values: dict[str, Any] = json.loads(found.read_text())
    return values


def main(words: Sequence[str]) -> str:
    """Write the list to the file that the command names; a sentence on what went wrong, or ""."""
    if len(words) != 1:
        return "name the file to write: python scripts/lock_hashes.py hashes-linux-x86_64-cp311.txt"
    try:
        pins = pins_of((ROOT / "constraints.txt").read_text())
        text = locked(pins, report_of(pins))
    except ValueError as error:
        return f"{words[0]} is left as it was: {error}"
    Path(words[0]).write_text(text)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or None)
