"""What a network costs: samples for each CPU-second, beside the simulator's in the same run.

OMP_NUM_THREADS=1 python benchmarks/loopback.py [--devices 8] [--rounds 6] [--write]

The same job simulated in one process, then served to devices that are processes of their own, over
loopback with mutual TLS. CPU time is that of all processes, from the end of the first round (models
loaded, links measured) to the end of the last but one; only the last is evaluated.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from cutlayer.drawing import tables
from cutlayer.job import Job, make_job
from cutlayer.network.server.serve import ServeOptions, serve
from cutlayer.network.transport import keys
from cutlayer.network.transport.identity import load_server_identity
from cutlayer.record.rows import Row
from cutlayer.rounds.progress import Silent
from cutlayer.simulation.simulate import simulate
from environment import describe

REPORTS = Path(__file__).parent / "reports"
METHODS = ("sflora", "tsflora", "st-sflora", "fedlora")
COLUMNS = (
    tables.Column("method", "method", "text"),
    tables.Column("simulated", "simulated, samples a CPU-second"),
    tables.Column("served", "over loopback"),
    tables.Column("ratio", "ratio"),
    tables.Column("overhead", "bytes beyond frames (%)"),
)
TICKS_S = os.sysconf("SC_CLK_TCK")


class Clock(Silent):
    """Notes CPU time, of this process and others, and samples, as rounds end."""

    def __init__(self) -> None:
        self.others: list[subprocess.Popen[bytes]] = []
        self.marks: list[tuple[float, int]] = []

    def round_done(self, row: Row) -> None:
        """Take a mark."""
        spent = time.process_time() + sum(cpu_s(process.pid) for process in self.others)
        self.marks.append((spent, sum(row.samples_trained.values())))

    @property
    def rate(self) -> float:
        """Samples a CPU-second, between the end of the first round and of the last but one."""
        (begin, _), *between = self.marks[:-1]
        return sum(samples for _, samples in between) / (between[-1][0] - begin)


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def job_of(method: str, devices: int, rounds: int) -> Job:
    return make_job(
        {
            "data": {
                "train_samples": 50 * devices,
                "test_samples": 50,
                "partition": {"kind": "iid"},
            },
            "devices": {"count": devices},
            "method": {"name": method, "allocation": {"solver": "equal"}},
            "training": {"rounds": rounds, "batch_size": 16, "evaluate_every": rounds},
        }
    )


def measure(method: str, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    job = job_of(method, options.devices, options.rounds)
    alone = Clock()
    simulate(job, out=folder / f"{method}-simulated", progress=alone)
    together = Clock()

    def start(port: int) -> None:
        for number in range(options.devices):
            bundle = folder / "keys" / "devices" / f"device-{number}"
            words = [f"127.0.0.1:{port}", "--share", "--keys", str(bundle)]
            together.others.append(
                subprocess.Popen(
                    [sys.executable, "-m", "cutlayer", "join", *words], stdout=subprocess.DEVNULL
                )
            )

    options = ServeOptions("127.0.0.1:0", load_server_identity(folder / "keys"))
    result = serve(
        job, options=options, out=folder / f"{method}-served", progress=together, on_port=start
    )
    for process in together.others:
        process.wait()
    beyond = sum(sum(row.overhead_bytes or []) for row in result.rows)
    return {
        "method": method,
        "simulated": alone.rate,
        "served": together.rate,
        "ratio": together.rate / alone.rate,
        "overhead": 100 * beyond / (result.up_bytes + result.down_bytes),
    }


TEXT = """\
# A network's cost over loopback

{environment}

The demo's ViT on {devices} devices, 50 images each, batches of 16, one thread a process. Simulated:
one process. Over loopback: a server and {devices} devices, each a process, with mutual TLS 1.3. CPU
time is that of all processes, from the end of the first round to the end of the last but one of
{rounds}, without evaluation; both in the same run of the script.

{table}
The simulator pools devices in one pass through the backbone, on both sides of the cut; over a
network each device computes its own batch, and frames are encrypted, checked and acknowledged.

    OMP_NUM_THREADS=1 python benchmarks/loopback.py --devices {devices} --rounds {rounds} --write
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--write", action="store_true", help="write benchmarks/reports")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        keys.init(folder / "keys")
        keys.add_server(folder / "keys", ["127.0.0.1"])
        for number in range(options.devices):
            keys.add_device(folder / "keys", f"device-{number}")
        rows = []
        for method in METHODS:
            rows.append(measure(method, options, folder))
            print(rows[-1], flush=True)
    text = TEXT.format(
        environment=describe(),
        table=tables.markdown(rows, COLUMNS),
        devices=options.devices,
        rounds=options.rounds,
    )
    if options.write:
        (REPORTS / "loopback.md").write_text(text)


if __name__ == "__main__":
    main()
