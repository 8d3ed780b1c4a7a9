"""Takes the three tutorials as a reader would, times every step, and keeps what they hand over.

    python scripts/walk_tutorials.py [paper] [pilot] [spectrum] [--machine WORDS] [--folder DIR]

Needs nothing but a checkout and its virtual environment. The blocks of docs/tutorials/paper.md and
spectrum.md are run as they stand. Those of pilot.md are run with the bundled model and images: each
camera is a process on this machine, with images in a folder of its own; a fourth joins later, one
is killed and comes back, the authority is replaced, the server is stopped and goes on. Writes
docs/tutorials/handed-over/ and the steps of docs/tutorials/handed-over.md. Takes minutes.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

from cutlayer.data.sources import load
from cutlayer.settings.data import Data

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
KEPT = TUTORIALS / "handed-over"
PAGE = TUTORIALS / "handed-over.md"
LONGEST_S = 900.0
BLOCK = re.compile(
    r'(?P<skip><!-- not run: [^\n]+ -->\n)?```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n'
    r"(?P<text>.*?)```",
    re.DOTALL,
)
HANDED = {
    "paper": {
        "paper/table.tex": "table.tex",
        "paper/accuracy-by-megabyte.pdf": "accuracy-by-megabyte.pdf",
    },
    "pilot": {"pilot.html": "pilot.html"},
    "spectrum": {"plans/grid/sweep.csv": "sweep.csv", "plans/grid/sweep.png": "sweep.png"},
}
"""What is kept of each way, by its path there."""


class Walk:
    """One way in a folder of its own: runs commands there, and notes how long each took."""

    def __init__(self, way: str, folder: Path) -> None:
        self.way, self.folder = way, folder
        self.steps: list[tuple[str, float]] = []
        folder.mkdir(parents=True)

    def run(self, command: str, said: str | None = None) -> None:
        """Run a command line to its end. said: what the table calls it. Raises SystemExit."""
        began = time.monotonic()
        done = subprocess.run(
            words_of(command), cwd=self.folder, env=environment(), capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{self.way}: {command}\nended with {done.returncode}:\n{done.stderr}")
        self.note(said or f"`{shown(command)}`", began)

    def start(self, command: str, log: str, within: Path | None = None) -> subprocess.Popen[str]:
        """Start a command that goes on, whose output goes to the file `log`."""
        with (self.folder / log).open("w") as output:
            return subprocess.Popen(
                words_of(command),
                cwd=within or self.folder,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def note(self, step: str, began: float) -> None:
        """A step is done that began so long ago."""
        seconds = time.monotonic() - began
        print(f"{self.way}: {seconds:6.1f} s  {step}", flush=True)
        self.steps.append((step, seconds))

    def keep(self) -> None:
        """Copy what the way hands over into the docs. Raises SystemExit where it names a folder of
        this machine.
        """
        KEPT.mkdir(exist_ok=True)
        for made, name in HANDED[self.way].items():
            found = (self.folder / made).read_bytes()
            for place in {str(self.folder), str(ROOT), str(Path.home())}:
                if place.encode() in found:
                    raise SystemExit(f"{self.way}: {made} names {place}")
            shutil.copyfile(self.folder / made, KEPT / name)


def environment() -> dict[str, str]:
    """As a reader has it; each process on one core, since several share this machine."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def words_of(command: str) -> list[str]:
    """The words of a command line, with this Python's cutlayer."""
    words = shlex.split(command)
    return [sys.executable, "-m", *words] if words[0] == "cutlayer" else [sys.executable, *words]


def shown(command: str) -> str:
    """A command as the table has it: without what goes on beyond its main words."""
    return command if len(command) <= 70 else command[:67].rsplit(" ", 1)[0] + " ..."


def blocks_of(way: str) -> list[re.Match[str]]:
    """The fenced blocks of a tutorial, but for those that its page does not run."""
    return [one for one in BLOCK.finditer((TUTORIALS / f"{way}.md").read_text()) if not one["skip"]]


def walk_as_written(walk: Walk) -> None:
    """Run the blocks of a tutorial one after another."""
    for block in blocks_of(walk.way):
        if block["title"]:
            (walk.folder / block["title"]).write_text(block["text"])
        elif block["language"] == "python":
            (walk.folder / "snippet.py").write_text(block["text"])
            walk.run("snippet.py", "the snippet in Python")
        elif block["language"] == "sh":
            for line in block["text"].splitlines():
                walk.run(line)


CAMERAS = 4
PORT, METRICS = 0, 1
"""Places in the list of free ports."""


def walk_pilot(walk: Walk) -> None:
    """The pilot with its cameras on this machine."""
    write_images(walk.folder)
    job = next(one["text"] for one in blocks_of("pilot") if one["title"] == "job.yaml")
    own = "model: {path: demo, cut: 2}"
    (walk.folder / "job.yaml").write_text(re.sub(r"^model: .*$", own, job, flags=re.MULTILINE))
    ports = free_ports(2)
    address, metrics = f"127.0.0.1:{ports[PORT]}", f"127.0.0.1:{ports[METRICS]}"
    walk.run("cutlayer simulate job.yaml --out runs/rehearsal")
    walk.run("cutlayer keys init")
    walk.run("cutlayer keys server 127.0.0.1")
    walk.run("cutlayer keys device cam-0000 cam-0001 cam-0002")
    running: dict[str, subprocess.Popen[str]] = {}

    def join(number: int, log: str) -> None:
        camera = walk.folder / f"cam-{number:04d}"
        shutil.copytree(
            walk.folder / "keys" / "devices" / camera.name, camera / "keys", dirs_exist_ok=True
        )
        command = f"cutlayer join {address} --keys keys --data images"
        running[camera.name] = walk.start(command, log, within=camera)

    def until(true: Callable[[str], bool], what: str) -> None:
        until_figures(metrics, true, what, running["server"])

    try:
        began = time.monotonic()
        serve = f"--keys keys --listen {address} --metrics {metrics} --min-devices 3"
        running["server"] = walk.start(
            f"cutlayer serve job.yaml {serve} --out runs/pilot --log server.log"
            f" --set devices.count={CAMERAS} --set training.rounds=500",
            "serve.txt",
        )
        for number in range(3):
            join(number, f"join-{number}.txt")
        until(lambda said: number_in(said, "cutlayer_rounds_done") >= 1, "the first round")
        walk.note(
            "`cutlayer serve`, three times `cutlayer join`, until the first round is over", began
        )

        walk.run("cutlayer keys device cam-0003")
        began = time.monotonic()
        join(3, "join-3.txt")
        until(lambda said: connected(said, "cam-0003"), "the fourth camera")
        walk.note("the fourth camera joins the running server", began)

        began = time.monotonic()
        running["cam-0002"].kill()
        until(lambda said: not connected(said, "cam-0002"), "the loss of a camera")
        walk.note('a camera dies: `cutlayer_device_connected{device="cam-0002"}` is 0', began)

        walk.run("cutlayer keys rotate")
        join(2, "join-2-again.txt")
        for number in range(CAMERAS):
            shutil.copytree(
                walk.folder / "keys" / "devices" / f"cam-{number:04d}",
                walk.folder / f"cam-{number:04d}" / "keys",
                dirs_exist_ok=True,
            )
        until(lambda said: connected(said, "cam-0002"), "the camera that comes back")
        walk.run("cutlayer keys renew")
        walk.run("cutlayer keys retire")

        began = time.monotonic()
        running["server"].send_signal(signal.SIGTERM)
        running["server"].wait(LONGEST_S)
        last = (walk.folder / "serve.txt").read_text().splitlines()[-1]
        walk.note("SIGTERM: the server stops, and says how to go on", began)
        found = re.search(r"stopped after (\d+) of \d+ rounds; go on with: (cutlayer .*)$", last)
        if found is None:
            raise SystemExit(f"pilot: the server's last line was {last!r}")

        began = time.monotonic()
        rounds = int(found[1]) + 3
        running["server"] = walk.start(
            f"{found[2]} --listen {address} --min-devices 3 --set training.rounds={rounds}",
            "serve-again.txt",
        )
        for name, process in running.items():
            if process.wait(LONGEST_S) and name != "cam-0002":
                raise SystemExit(f"pilot: {name} ended with {process.returncode}")
        walk.note("the server goes on, cameras come back by themselves, three rounds more", began)
    finally:
        for process in running.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    walk.run("cutlayer report runs/pilot --out pilot.html")
    walk.run("cutlayer evaluate runs/pilot --out figures.json")
    walk.run("cutlayer export runs/pilot --merged --out given/model")
    one = next((walk.folder / "my-images").iterdir())
    walk.run(f"cutlayer predict runs/pilot 'my-images/{one.name}' --format csv --out answers.csv")


def write_images(folder: Path) -> None:
    """Bundled images as files: my-images for the server, and a folder for each camera."""
    data, _ = load(Data(source="demo", train_samples=1000, test_samples=10), 0)
    seen = dict.fromkeys(data.classes, 0)
    pixels = np.asarray(data.inputs)
    for image, label in zip(pixels, data.labels, strict=True):
        name = data.classes[label]
        place, seen[name] = seen[name], seen[name] + 1
        own = "my-images" if place < 20 else f"cam-{place % CAMERAS:04d}/images"
        path = folder / own / name.replace("/", " or ") / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path)


def until_figures(
    address: str, true: Callable[[str], bool], what: str, server: subprocess.Popen[str]
) -> None:
    """Wait until the metrics at `address` say so. Raises SystemExit."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                if true(answer.read().decode()):
                    return
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.2)
    raise SystemExit(f"pilot: the metrics never told of {what}")


def number_in(figures: str, name: str) -> float:
    """The value of a metric, 0 where it is not told."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", figures, re.MULTILINE)
    return float(found[1]) if found else 0.0


def connected(figures: str, device: str) -> bool:
    """Whether a device has its place and is there."""
    return number_in(figures, f'cutlayer_device_connected{{device="{device}"}}') == 1


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


WAYS: dict[str, Callable[[Walk], None]] = {
    "paper": walk_as_written,
    "pilot": walk_pilot,
    "spectrum": walk_as_written,
}


def write_steps(walk: Walk, machine: str) -> None:
    """Put the steps of a way between its marks in the page."""
    rows = "".join(f"| {step.replace('|', chr(92) + '|')} | {s:.0f} |\n" for step, s in walk.steps)
    whole = sum(seconds for _, seconds in walk.steps)
    table = (
        f"On {date.today().isoformat()}, on {machine}: {whole / 60:.1f} minutes in all.\n\n"
        f"| step | seconds |\n|---|--:|\n{rows}"
    )
    marks = [f"<!-- steps of {walk.way}: {word} -->" for word in ("begin", "end")]
    text = PAGE.read_text()
    before, rest = text.split(marks[0])
    _, after = rest.split(marks[1])
    PAGE.write_text(f"{before}{marks[0]}\n{table}{marks[1]}{after}")


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="*", help=f"Of {', '.join(WAYS)}; all if none is named.")
    parser.add_argument("--machine", default=f"{os.cpu_count()} cores", help="What it ran on.")
    parser.add_argument("--folder", type=Path, help="An empty folder to work in, which is kept.")
    options = parser.parse_args()
    if unknown := set(options.ways) - set(WAYS):
        parser.error(f"no way is called {', '.join(sorted(unknown))}: take of {', '.join(WAYS)}")
    with tempfile.TemporaryDirectory() as scratch:
        for way in options.ways or WAYS:
            walk = Walk(way, (options.folder or Path(scratch)).resolve() / way)
            WAYS[way](walk)
            walk.keep()
            write_steps(walk, options.machine)


if __name__ == "__main__":
    main()
