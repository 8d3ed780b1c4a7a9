"""Draws the pictures of the README and the docs' home page from a real run: the demo's, in a world.

    python scripts/draw_pictures.py [--runs DIR]

Trains the demo's three methods, each with the radio and the clock of the default world (minutes on
two cores), unless DIR holds these runs already, and writes docs/figures/shown-*.png: the figures of
`cutlayer report`, its page, and the dashboard, in few colours so that the repository stays small.
The page and the dashboard need the package playwright and a chromium; without them their pictures
stay as they are.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
OPENED = "tsflora-24x4"  # the run that the dashboard is shown with
COLOURS = 256
WIDTH = 1000
SCREEN = {"width": 1200, "height": 1200}
LONGEST_MS = 300_000


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
    written = cutlayer.report(
        [runs], out=scratch / "report.html", images=3, figures_folder=drawn, formats=["png"]
    )
    for name, shown in SHOWN.items():
        keep(drawn / name, shown)
    photograph(runs, written.page, scratch)


def photograph(runs: Path, page: Path, scratch: Path) -> None:
    """Pictures of the report's page and of the dashboard, where there is a browser."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print(
            "The pictures of the report's page and of the dashboard stay as they are: new ones need"
            " a browser (pip install playwright; apt-get install chromium)."
        )
        return
    with dashboard(runs) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for url, shown in (
            (page.as_uri(), "shown-report.png"),
            (f"{address}#run={OPENED}", "shown-dashboard.png"),
        ):
            opened = browser.new_page(viewport=SCREEN)
            opened.set_default_timeout(LONGEST_MS)
            opened.goto(url)
            opened.wait_for_selector("html[data-ready]")
            opened.evaluate("scrollTo(0, 0)")
            # The dashboard's header names the folder on this machine.
            opened.screenshot(path=scratch / shown, style="header p { visibility: hidden; }")
            keep(scratch / shown, shown)
        browser.close()


@contextmanager
def dashboard(runs: Path) -> Iterator[str]:
    """The address of a dashboard of `runs`, which is stopped at the end."""
    command = [sys.executable, "-m", "cutlayer", "dashboard", runs.name, "--listen", "127.0.0.1:0"]
    serving = subprocess.Popen(
        command,
        cwd=runs.resolve().parent,  # a run is shown by its path as given
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert serving.stdout is not None
        yield serving.stdout.readline().split()[1]
    finally:
        serving.send_signal(signal.SIGINT)
        serving.wait()


def keep(picture: Path, shown: str) -> None:
    """Write a picture small and in few colours, and say its size."""
    with Image.open(picture) as opened:
        small = opened.convert("RGB")
        small.thumbnail((WIDTH, 2 * WIDTH))
        # A thin line keeps its colour, however little of the picture it is.
        few = small.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2)
        few.save(FIGURES / shown, optimize=True)
    print(f"{FIGURES / shown}: {(FIGURES / shown).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
