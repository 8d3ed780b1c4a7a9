"""Write the hashes of the packages in constraints.txt for this Python and platform, by pip.

    python scripts/lock_hashes.py > hashes-linux-x86_64-cp311.txt

torch is left out: its CPU build is another file than the registry's, and is installed by itself. To
install what the list holds and nothing else, after torch:

    pip install --require-hashes --no-deps -r hashes-linux-x86_64-cp311.txt
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
APART = ("torch==",)


def report() -> dict[str, Any]:
    """What pip would install, with the hash of each file."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    with tempfile.TemporaryDirectory() as folder:
        wanted, found = Path(folder) / "pins.txt", Path(folder) / "report.json"
        wanted.write_text("\n".join(pin for pin in pins if not pin.startswith(("#", *APART))))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]
        subprocess.run(
            [*command, "--ignore-installed", "--report", str(found), "-r", str(wanted)],
            check=True,
            stdout=sys.stderr,
        )
        values: dict[str, Any] = json.loads(found.read_text())
    return values


def lines(values: dict[str, Any]) -> list[str]:
    """A line for each package: its version and the SHA-256 of its file."""
    found = []
    for one in values["install"]:
        name, version = one["metadata"]["name"].lower(), one["metadata"]["version"]
        digest = one["download_info"]["archive_info"]["hashes"]["sha256"]
        found.append(f"{name}=={version} --hash=sha256:{digest}")
    return sorted(found)


if __name__ == "__main__":
    print("# Made by scripts/lock_hashes.py from constraints.txt.")
    print("\n".join(lines(report())))
