"""A light device beside one with torch: install size, import time, memory and images a second.

python benchmarks/light.py --python LIGHT/bin/python [--model FOLDER] [--write]

LIGHT is a virtual environment with nothing but docs/light.md's install. Every row is a
process of its own that holds a device's part of DINOv2-S and runs batches of 16 on one thread:
with torch as a device of a network does, or a program by onnxruntime. Peak memory is the process's,
interpreter and libraries included. Speed is by seconds of the processor, so that other work on the
machine counts little, and by the fastest batch of two processes. `relative error` is the root mean
square of the activations' difference from torch's, over that of torch's. Rows of `join` are whole
devices, with command line and connection, by `cutlayer join --light --probe` on loopback; their
speed is on all cores and by the clock.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cutlayer.drawing import tables
from cutlayer.job import Job, make_job
from cutlayer.model.families import describe as describe_model
from cutlayer.model.part import write_part
from cutlayer.programs.make import programs_of
from cutlayer.settings.precision import PRECISIONS
from cutlayer.wire.program_ports import Coding, ProgramKey
from environment import describe

REPORTS = Path(__file__).parent / "reports"
SIDES, CUTS, BATCH, TURNS = (98, 224), (0, 2, 4), 16, 2
GOAL_MB, GOAL_PEAK_MB, GOAL_SIDE = 250, 120, 98
WAIT_S = 600
COLUMNS = (
    tables.Column("side", "image (px)", "text"),
    tables.Column("cut", "cut", "text"),
    tables.Column("kind", "device", "text"),
    tables.Column("file_mb", "sent to it (MB)"),
    tables.Column("peak_mb", "peak (MB)"),
    tables.Column("rate", "images a second"),
    tables.Column("ratio", "of torch's speed"),
    tables.Column("error", "relative error", "text"),
)
LIGHT = """
import json, sys, time
from pathlib import Path
import numpy as np
from cutlayer.light.graph import Compute, ReadyGraph
from cutlayer.light.job import Images, LightJob, Uplink
from cutlayer.light.batch_cost import peak_bytes
from cutlayer.light.program import Program
from cutlayer.wire.program_ports import Coding, ProgramKey

blocks, ending, weights = map(Path, sys.argv[1:4])
cut, prefix, candidates, width = map(int, sys.argv[4:8])
images, out = sys.argv[8:]
uplink = Uplink("quantize", "uniform", "token", False, True, False, 0.5, 0.5)
fit = Images(8, 8, False, "bilinear", 3)
job = LightJob(0, 16, 1, prefix, candidates, width, uplink, True, "float32", fit)
key, compute = ProgramKey(cut, Coding("floats")), Compute(threads=1)
graphs = [
    ReadyGraph(blocks, weights, key.blocks_ports(False), compute),
    ReadyGraph(ending, weights, key.ending_ports(False, prefix), compute),
]
program = Program(key, *graphs, job)
batch = np.load(images)
best = float("inf")
for _ in range(6):
    start = time.process_time()
    hidden = program.run({"images": batch})["hidden"]
    best = min(best, time.process_time() - start)
np.save(out, hidden)
print(json.dumps({"batch_s": best, "peak_bytes": peak_bytes()}))
"""
TORCH = """
import json, sys, time
import numpy as np
from cutlayer.light.batch_cost import peak_bytes
from cutlayer.model.bank import Segment
from cutlayer.model.inputs import normalisation
from cutlayer.model.weights import load_model
from cutlayer.network.device import device_requests
from cutlayer.settings.model import Model
import torch

part, side, cut, images, out = sys.argv[1:]
torch.set_num_threads(1)
model = load_model(Model(path=part, image_size=int(side), cut=int(cut)), 10, 0, "device")
scale, shift = normalisation(model.spec)
batch = torch.from_numpy(np.load(images))
best = float("inf")
with torch.no_grad():
    for _ in range(6):
        start = time.process_time()
        given = {"pixel_values": batch * scale + shift}
        hidden = model.device_forward(given, int(cut), [Segment({}, len(batch))]).hidden
        best = min(best, time.process_time() - start)
np.save(out, hidden.numpy())
print(json.dumps({"batch_s": best, "peak_bytes": peak_bytes()}))
"""
IMPORT = """
import sys, time
start = time.process_time()
import cutlayer.cli, cutlayer.network.device.join, {module}
print(time.process_time() - start)
"""


def run(python: str, code: str, *words: object) -> Any:
    """What a process prints, as JSON; it has one thread."""
    command = [python, "-c", code, *map(str, words)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environ(python))
    return json.loads(found.stdout)


def environ(python: str) -> dict[str, str]:
    """Of one thread; what is imported is compiled and kept, as on any device."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    if python != sys.executable:  # a light device has what it installed, and nothing else
        found.pop("PYTHONPATH", None)
    return found


def job_of(model: str, side: int) -> Job:
    return make_job({"model": {"path": model, "image_size": side}, "method": "st-sflora"})


def rows_of(python: str, model: str, side: int, cut: int, scratch: Path) -> list[dict[str, Any]]:
    """One side and cut: torch, and a program in each precision."""
    job = job_of(model, side)
    spec = describe_model(job.model)
    part = scratch / f"part-{cut}"
    write_part(part, job.model.model_copy(update={"cut": cut}), job.seed, "device")
    images, out = scratch / "images.npy", scratch / "out.npy"
    levels = np.random.default_rng(0).integers(0, 256, (BATCH, 3, side, side))
    np.save(images, levels.astype(np.float32))
    kinds: dict[str, tuple[str, str, tuple[object, ...], int]] = {}
    size = (part / "model.safetensors").stat().st_size
    kinds["torch"] = (sys.executable, TORCH, (part, side, cut), size)
    key = ProgramKey(cut, Coding("floats"))
    for precision in PRECISIONS:
        folder = scratch / f"{side}-{cut}-{precision}"
        made = programs_of(job, spec, part, cut, folder, precision)
        files = (made.blocks(key), made.ending(key), made.weights)
        size = sum(path.stat().st_size for path in files)
        sizes = (cut, spec.prefix, spec.patches, spec.width)
        kinds[f"light, {precision}"] = (python, LIGHT, (*files, *sizes), size)
    best: dict[str, dict[str, float]] = {}
    hidden = {}
    for _ in range(TURNS):
        for kind, (interpreter, code, words, _) in kinds.items():
            found = run(interpreter, code, *words, images, out)
            before = best.setdefault(kind, found)
            best[kind] = {name: min(value, before[name]) for name, value in found.items()}
            hidden[kind] = np.load(out)
    reference, rows = hidden["torch"], []
    for kind, found in best.items():
        off = np.sqrt(np.square(hidden[kind] - reference).mean() / np.square(reference).mean())
        rows.append(
            {
                "side": str(side),
                "cut": str(cut),
                "kind": kind,
                "file_mb": round(kinds[kind][3] / 1e6, 1),
                "peak_mb": round(found["peak_bytes"] / 1e6),
                "rate": round(BATCH / found["batch_s"]),
                "ratio": round(best["torch"]["batch_s"] / found["batch_s"], 2),
                "error": f"{off:.1e}" if off else "-",
            }
        )
        print(rows[-1], flush=True)
    return rows


@contextmanager
def serving(model: str, side: int, cut: int) -> Iterator[int]:
    """A server of its own process that waits for two devices; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    settings = (f"model.path={model}", f"model.image_size={side}", f"model.cut={cut}")
    settings = (
        *settings,
        "method=st-sflora-full",
        "devices.count=2",
        f"training.batch_size={BATCH}",
    )
    changes = [word for one in settings for word in ("--set", one)]
    words = ["serve", *changes, "--insecure", "--listen", f"127.0.0.1:{port}"]
    with tempfile.TemporaryDirectory() as out, open(Path(out) / "said", "w") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "cutlayer", *words, "--out", f"{out}/run"],
            stdout=said,
            stderr=said,
            env=environ(sys.executable),
        )
        try:
            yield port
        finally:
            server.terminate()
            server.wait()


def probed(python: str, model: str, side: int, cut: int, scratch: Path) -> list[dict[str, Any]]:
    """Whole devices, which measure themselves on a batch of images."""
    rng = np.random.default_rng(0)
    for number in range(BATCH):
        folder = scratch / "own" / ("Bag", "Dress")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        levels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.png")
    rows = []
    with serving(model, side, cut) as port:
        for precision in PRECISIONS:
            words = ["join", f"127.0.0.1:{port}", "--data", str(scratch / "own"), "--light"]
            words += ["--probe", "--name", precision, "--precision", precision]
            command = [python, "-m", "cutlayer", *words]
            found = subprocess.run(  # a device would wait for ever for a server that has died
                command,
                check=True,
                capture_output=True,
                text=True,
                env=environ(python),
                timeout=WAIT_S,
            )
            line = re.search(r"probe: .* (\d+) samples a second; (\d+) MB", found.stdout)
            assert line is not None, found.stdout
            row = {"side": str(side), "cut": str(cut), "kind": f"join, {precision}"}
            rows.append({**row, "rate": int(line[1]), "peak_mb": int(line[2]), "error": "-"})
            print(rows[-1], flush=True)
    return rows


def installed(python: str) -> Counter[str]:
    """Bytes of what is installed beside an interpreter, without what every environment has."""
    code = "import json, sysconfig; print(json.dumps(sysconfig.get_paths()['purelib']))"
    folder = Path(run(python, code))
    found: Counter[str] = Counter()
    for path in folder.rglob("*"):
        name = re.split(r"[-.]", path.relative_to(folder).parts[0])[0]
        if path.is_file() and name not in ("pip", "setuptools", "pkg_resources"):
            found[name] += path.stat().st_size
    return found


def said_of(rows: list[dict[str, Any]], sizes: Counter[str]) -> str:
    """What the rows say of the goals."""
    total = sizes.total() / 1e6
    largest = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in sizes.most_common(6))
    lines = [
        f"Installed, a light device takes {total:.0f} MB (goal: {GOAL_MB}), of which {largest}"
    ]
    light = [row for row in rows if row["kind"].startswith("light")]
    small = [row for row in light if row["side"] == str(GOAL_SIDE)]
    if small:
        most = max(small, key=lambda row: row["peak_mb"])
        lines.append(
            f"The highest peak at {GOAL_SIDE} px is {most['peak_mb']} MB (goal: {GOAL_PEAK_MB}), "
            f"of {most['kind'].removeprefix('light, ')} at cut {most['cut']}"
        )
    for precision in PRECISIONS:
        ratios = [row["ratio"] for row in light if row["kind"].endswith(precision)]
        lines.append(f"{precision} runs at {min(ratios)} to {max(ratios)} of torch's speed")
    return ". ".join(lines) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", required=True, help="of an environment of a light device")
    parser.add_argument("--model", default="../shared/models/dinov2-small")
    parser.add_argument("--sides", type=int, nargs="*", default=SIDES, help="of images, pixels")
    parser.add_argument("--cuts", type=int, nargs="*", default=CUTS)
    parser.add_argument("--write", action="store_true", help="write reports/light.md")
    options = parser.parse_args()
    model = str(Path(options.model).resolve())
    imports = {
        python: min(run(python, IMPORT.format(module=f"cutlayer.{module}")) for _ in range(TURNS))
        for python, module in (
            (options.python, "network.device.light_participant"),
            (sys.executable, "network.device.torch_participant"),
        )
    }
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for side in options.sides:
            for cut in options.cuts:
                rows += rows_of(options.python, model, side, cut, Path(scratch))
            rows += probed(options.python, model, side, options.cuts[-1], Path(scratch))
    said = (
        f"{said_of(rows, installed(options.python))} Importing what a device runs takes "
        f"{imports[options.python]:.2f} s of the processor's time without torch and "
        f"{imports[sys.executable]:.2f} s with it."
    )
    print(said)
    if options.write:
        assert __doc__ is not None
        text = f"# Light devices\n\n{__doc__.split(chr(10), 4)[4].strip()}\n\n{said}\n\n"
        text += tables.markdown(rows, COLUMNS) + f"\n{describe()}\n"
        (REPORTS / "light.md").write_text(text)


if __name__ == "__main__":
    main()
