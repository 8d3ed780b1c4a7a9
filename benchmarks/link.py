"""A real link: measured rounds over an emulated radio link, beside the simulator's prediction.

python benchmarks/link.py [--devices 8] [--mbps 20] [--rtt-ms 40] [--loss 1] [--write]   (as root)

Every device is a process in a network namespace of its own, joined to the server's by a link with
that rate each way, round trip and loss. Where the kernel has `tc netem` it is a veth pair with
netem on both ends; where it has not, packets go through TUN interfaces and this program, which
keeps rate, delay and loss itself. TCP's congestion control is BBR, which does not take loss for
congestion. The simulator is given the rates that devices measured as they joined, half the round
trip as latency, the loss, and what an undisturbed run over loopback shows of computing: a speed of
the server at which it works as long as it did there, and one of the devices at which training
lasts as long.
"""

import argparse
import csv
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

from cutlayer.drawing import tables
from cutlayer.job import Job, dump_job, make_job
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from cutlayer.simulation.simulate import simulate
from environment import describe

REPORTS = Path(__file__).parent / "reports"
EDGE, PORT = "cutlayer-edge", 7311
# Longer queues than this are dropped, as a router would.
QUEUE_S, MTU = 0.3, 1500
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
METHODS: dict[str, dict[str, object]] = {
    "sflora": {"name": "sflora"},
    "tsflora": {"name": "tsflora", "tokens": {"keep": 24}, "uplink": {"bits": 8}},
}
COLUMNS = (
    tables.Column("method", "method", "text"),
    tables.Column("measured", "measured round, median", "seconds"),
    tables.Column("predicted", "simulated", "seconds"),
    tables.Column("off", "off by (%)"),
    tables.Column("measured_mean", "measured, mean", "seconds"),
    tables.Column("predicted_mean", "simulated", "seconds"),
    tables.Column("off_mean", "off by (%)"),
    tables.Column("alone", "over loopback", "seconds"),
    tables.Column("training", "of it training", "seconds"),
    tables.Column("server", "and of that the server", "seconds"),
    tables.Column("megabytes", "sent a round (MB)"),
    tables.Column("rate", "measured uplinks (Mbit/s)"),
)


@dataclass
class Way:
    """One direction of an emulated link."""

    out: int
    rate_bps: float
    delay_s: float
    loss: float
    free_at_s: float = 0.0


@dataclass
class Emulator:
    """Carries packets between TUN interfaces with a rate, a delay and losses."""

    ways: dict[int, Way] = field(default_factory=dict)
    stopped: bool = False

    def run(self) -> None:
        """Pass packets on until stopped."""
        poll = select.epoll()
        for source in self.ways:
            poll.register(source, select.EPOLLIN)
        due: list[tuple[float, int, int, bytes]] = []
        count = 0
        while not self.stopped:
            now = time.monotonic()
            while due and due[0][0] <= now:
                _, _, out, packet = heapq.heappop(due)
                try:
                    os.write(out, packet)
                except OSError:
                    continue
            wait = max(0.0, due[0][0] - now) if due else 0.1
            for source, _ in poll.poll(wait):
                way = self.ways[source]
                for _ in range(64):
                    try:
                        packet = os.read(source, 2**16)
                    except BlockingIOError:
                        break
                    now = time.monotonic()
                    begin = max(now, way.free_at_s)
                    if begin - now > QUEUE_S:
                        continue
                    way.free_at_s = begin + 8 * len(packet) / way.rate_bps
                    if random.random() < way.loss:
                        continue
                    count += 1
                    heapq.heappush(due, (way.free_at_s + way.delay_s, count, way.out, packet))


class LinkError(Exception):
    """This machine does not make such a link, in iproute2's words."""


def ip(*words: str, namespace: str | None = None) -> None:
    within = ["ip", "netns", "exec", namespace] if namespace else []
    done = subprocess.run([*within, *words], capture_output=True, text=True)
    if done.returncode:
        raise LinkError(f"{' '.join(words)}: {done.stderr.strip()}")


def has_netem() -> bool:
    """Whether the kernel knows netem; tried in a namespace of its own."""
    here, delay = "cutlayer-try", "tc qdisc add dev lo root netem delay 1ms"
    ip("ip", "netns", "add", here)
    try:
        ip(*delay.split(), namespace=here)
        return True
    except LinkError:
        return False
    finally:
        ip("ip", "netns", "del", here)


def tun(name: str) -> int:
    """A TUN interface of this namespace, to be moved to another."""
    number = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(number, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return number


@contextmanager
def links(options: argparse.Namespace, netem: bool) -> Iterator[None]:
    """A namespace for the server and one a device, each with a link of its own to the server's."""
    with ExitStack() as stack:
        emulator = Emulator()

        def namespace(name: str) -> None:
            ip("ip", "netns", "add", name)
            stack.callback(ip, "ip", "netns", "del", name)
            ip("ip", "link", "set", "lo", "up", namespace=name)
            ip("sysctl", "-w", "net.ipv4.tcp_congestion_control=bbr", namespace=name)

        namespace(EDGE)
        for number in range(options.devices):
            device = device_namespace(number)
            namespace(device)
            ends = ((f"ce{number}", EDGE, 1, 2), (f"cd{number}", device, 2, 1))
            if netem:
                ip("ip", "link", "add", ends[0][0], "type", "veth", "peer", "name", ends[1][0])
            else:
                here, there = (tun(name) for name, *_ in ends)
                delay_s, loss = options.rtt_ms / 2000, options.loss / 100
                for source, out in ((here, there), (there, here)):
                    emulator.ways[source] = Way(out, options.mbps * 1e6, delay_s, loss)
            for name, where, own, other in ends:
                ip("ip", "link", "set", name, "netns", where)
                address, peer = (f"10.77.{number}.{last}" for last in (own, other))
                ip("ip", "addr", "add", address, "peer", peer, "dev", name, namespace=where)
                ip("ip", "link", "set", name, "mtu", str(MTU), "up", namespace=where)
                if netem:
                    ip("tc", "qdisc", "add", "dev", name, "root", "netem",
                       "rate", f"{options.mbps}mbit", "delay", f"{options.rtt_ms / 2}ms",
                       "loss", f"{options.loss}%", namespace=where)  # fmt: skip
        if not netem:
            thread = threading.Thread(target=emulator.run)
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, emulator, "stopped", True)
            # Packets go ahead of all else on this machine, as in a kernel.
            assert thread.native_id is not None
            os.sched_setscheduler(thread.native_id, os.SCHED_RR, os.sched_param(1))
        yield


def device_namespace(number: int) -> str:
    return f"cutlayer-{number}"


def job_of(method: dict[str, object], devices: int, rounds: int, world: object = None) -> Job:
    return make_job(
        {
            "data": {
                "train_samples": 64 * devices,
                "test_samples": 20,
                "partition": {"kind": "iid"},
            },
            "devices": {"count": devices},
            "method": method,
            "training": {"rounds": rounds, "batch_size": 16, "evaluate_every": rounds},
            "world": world,
        }
    )


def served(job: Job, folder: Path, linked: bool) -> tuple[list[Row], list[float], dict[int, dict]]:
    """Serve a job to devices over links or loopback: rows, seconds of each round, what is known."""
    folder.mkdir()
    (folder / "job.yaml").write_text(dump_job(job))
    log = folder / "log"
    command = [sys.executable, "-m", "cutlayer"]
    one = {**os.environ, "OMP_NUM_THREADS": "1"}

    def within(name: str, words: list[str]) -> subprocess.Popen[bytes]:
        inside = ["ip", "netns", "exec", name] if linked else []
        return subprocess.Popen([*inside, *command, *words], env=one, stdout=subprocess.DEVNULL)

    where = f"0.0.0.0:{PORT}" if linked else f"127.0.0.1:{PORT}"
    words = ["serve", str(folder / "job.yaml"), "--out", str(folder / "run"), "--log", str(log)]
    server = within(EDGE, [*words, "--listen", where, "--insecure"])
    devices = []
    for number in range(job.devices.count):
        address = f"10.77.{number}.1:{PORT}" if linked else f"127.0.0.1:{PORT}"
        joined = ["join", address, "--share", "--name", f"device-{number:04d}"]
        devices.append(within(device_namespace(number), joined))
    if server.wait() != 0:
        raise SystemExit(f"the server failed: {log.read_text()[-1000:]}")
    for device in devices:
        device.wait()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    known = {event["number"]: event for event in events if event["event"] == "ready"}
    ends = [event["time"] for event in events if event["event"] == "round"]
    rows = read_rows(folder / "run")
    # Evaluation and the like are the server's own, after the round; the first round warms up.
    seconds = [after - before for before, after in pairwise(ends[:-1])]
    return rows, seconds, known


@dataclass(frozen=True)
class Alone:
    """A round without a link, in seconds: medians.

    training_s: of it from the first step to the last; the rest is the record, checkpoints and
    the like. server_s: of the training what the server worked.
    """

    round_s: float
    training_s: float
    server_s: float

    @classmethod
    def of(cls, rows: list[Row], seconds: list[float]) -> "Alone":
        """From rounds, the first and last left out."""
        stages = ("device", "server", "wire")
        spent = [[row.seconds.get(stage, 0.0) for stage in stages] for row in rows[1:-1]]
        training_s, server_s = median(map(sum, spent)), median(sum(own) for _, *own in spent)
        return cls(median(seconds), training_s, server_s)


def predicted(
    job: Job, folder: Path, known: dict[int, dict], alone: Alone, options: argparse.Namespace
) -> list[float]:
    """The simulator's rounds for the measured rates, and computing as it was without a link.

    Rounds lose different packets. What the server does between them is not the simulator's to
    time, and is added as measured.
    """
    folder.mkdir()
    fast = dict.fromkeys(known, (1e12, 1e12))

    def lasting(
        flops: float,
        server_flops: float,
        rates: dict[int, tuple[float, float]] = fast,
        rounds: int = 1,
        **link: float,
    ) -> list[float]:
        fleet, trace = folder / "fleet.csv", folder / "rates.csv"
        with fleet.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(
                ["x_m", "y_m", "speed_mps", "clock_hz", "cores", "flops_per_cycle", "power_max_w",
                 "energy_coefficient", "memory_bytes", "data_size"]
            )  # fmt: skip
            out.writerows([[50, 0, 0, flops, 1, 1, 0.2, 0, 8e9, 64]] * len(rates))
        with trace.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["time_s", "device", "uplink_bps", "downlink_bps"])
            for time_s in (0, 10**6):
                out.writerows([[time_s, number, *rate] for number, rate in rates.items()])
        world = {
            "fleet": {"path": str(fleet)},
            "bandwidth_hz": 1e11,
            "rates_path": str(trace),
            "serving": "pooled",
            "server_flops": server_flops,
            **link,
        }
        method = job.method.model_dump(mode="json")
        timed = job_of(method, job.devices.count, rounds, world)
        name = f"{flops:.6g}-{server_flops:.6g}-{rounds}"
        return [float(row.virtual_s or 0.0) for row in simulate(timed, out=folder / name).rows]

    # The server's time is inversely proportional to its speed; the devices' overlaps with it.
    server_flops = 1e9 * lasting(1e15, 1e9)[0] / alone.server_s
    low, high = 6.0, 15.0
    while high - low > 0.005:
        power = (low + high) / 2
        slow = lasting(10**power, server_flops)[0] > alone.training_s
        low, high = (power, high) if slow else (low, power)
    rates = {n: (one["uplink_bps"], one["downlink_bps"]) for n, one in known.items()}
    latency_s, loss = options.rtt_ms / 2000, options.loss / 100
    trained = lasting(10**power, server_flops, rates, 20, latency_s=latency_s, packet_loss=loss)
    return [one_s + alone.round_s - alone.training_s for one_s in trained]


def measure(options: argparse.Namespace, folder: Path, netem: bool) -> list[dict]:
    rows = []
    for name, method in METHODS.items():
        job = job_of(method, options.devices, options.rounds)
        alone = Alone.of(*served(job, folder / f"{name}-loopback", linked=False)[:2])
        with links(options, netem):
            found, seconds, known = served(job, folder / f"{name}-link", linked=True)
        expected = predicted(job, folder / f"{name}-simulated", known, alone, options)
        rows.append(
            {
                "method": name,
                "measured": median(seconds),
                "measured_mean": mean(seconds),
                "predicted": median(expected),
                "predicted_mean": mean(expected),
                "off": 100 * (median(expected) / median(seconds) - 1),
                "off_mean": 100 * (mean(expected) / mean(seconds) - 1),
                "alone": alone.round_s,
                "training": alone.training_s,
                "server": alone.server_s,
                "megabytes": (found[1].up_bytes + found[1].down_bytes) / 1e6,
                "rate": [one["uplink_bps"] / 1e6 for one in known.values()],
            }
        )
        print(rows[-1], flush=True)
    return rows


TEXT = """\
# Over a real link

{environment}

{devices} devices, each a process in a network namespace of its own, on a link to the server of
{mbps:g} Mbit/s each way, {rtt_ms:g} ms of round trip and {loss:g} % of packets lost, by
{by}; TCP with BBR.
The demo's ViT, 64 images a device, batches of 16; of {counted} rounds, the first and last left
out, and of 20 simulated. The simulator was given the rates that devices measured as they joined,
half the round trip as `world.latency_s`, the loss as `world.packet_loss`, `world.serving: pooled`,
and two compute speeds: of the server, at which it works as long as over loopback here, and of the
devices, at which training lasts as long, all processes sharing two cores. What a round takes beside
training (record, checkpoint) is added as measured over loopback.

{table}
off by: the simulator's round against the measured one. `tsflora`'s round takes {saving:.2f} of
`sflora`'s time.

    python benchmarks/link.py --devices {devices} --rounds {rounds} --write
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--mbps", type=float, default=20.0)
    parser.add_argument("--rtt-ms", type=float, default=40.0)
    parser.add_argument("--loss", type=float, default=1.0)
    parser.add_argument("--write", action="store_true", help="write benchmarks/reports/link.md")
    options = parser.parse_args()
    netem = has_netem()
    with tempfile.TemporaryDirectory() as made:
        rows = measure(options, Path(made), netem)
    by = (
        "the kernel's netem"
        if netem
        else "this program on TUN interfaces (the kernel has no netem)"
    )
    text = TEXT.format(
        environment=describe(),
        table=tables.markdown(rows, COLUMNS),
        by=by,
        counted=options.rounds - 2,
        saving=rows[1]["measured"] / rows[0]["measured"],
        **vars(options),
    )
    if options.write:
        (REPORTS / "link.md").write_text(text)


if __name__ == "__main__":
    main()
