"""Draws the pictures of the README and the docs' home page from a real run: the demo's, in a world.

    python scripts/draw_pictures.py [--runs DIR]

Trains the demo's three methods, each with the radio and the clock of the default world (minutes on
two cores), unless DIR holds these runs already, and writes docs/figures/shown-*.png: the figures of
`cutlayer report`, in few colours so that the repository stays small. A picture of the page itself,
or of the dashboard, would need a browser.
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image

import cutlayer
from cutlayer.simulation.demo import METHODS, demo_job

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
SHOWN = {
    "accuracy-by-megabyte.png": "shown-accuracy.png",
    "round.png": "shown-round.png",
    "patches.png": "shown-patches.png",
}
COLOURS = 64
WIDTH = 1000


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="Folder of the runs, kept for another time.")
    chosen = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as scratch:
        draw(chosen or Path(scratch) / "runs", Path(scratch))


def draw(runs: Path, scratch: Path) -> None:
    """Train where `runs` holds nothing yet, and write the pictures."""
    if not runs.exists():
        job = cutlayer.change_job(demo_job(), ["world={}"])
        cutlayer.compare(job, methods=METHODS, out=runs)
    drawn = scratch / "figures"
    cutlayer.report(
        [runs], out=scratch / "report.html", images=3, figures_folder=drawn, formats=["png"]
    )
    for name, shown in SHOWN.items():
        with Image.open(drawn / name) as picture:
            small = picture.convert("RGB")
            small.thumbnail((WIDTH, 2 * WIDTH))
            small.quantize(COLOURS).save(FIGURES / shown, optimize=True)
        print(f"{FIGURES / shown}: {(FIGURES / shown).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
