"""Many devices on one server: memory and latency, with frames that were recorded.

python benchmarks/crowd.py [--devices 10,100,300,1000] [--seconds 20] [--every 5]

Devices (a process of their own, mutual TLS, a certificate each) compute nothing: every few seconds
each sends the same frame of activations, encoded once by the codec at the demo's cut. The server
receives, checks and decodes each frame and answers with an encoded gradient; it does not train.
Writes benchmarks/reports/crowd.md and its figure.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from cutlayer.drawing import tables
from cutlayer.drawing.style import new_figure
from cutlayer.errors import NetworkError
from cutlayer.network.transport import keys
from cutlayer.network.transport.client import connect
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.identity import load_device_identity, load_server_identity
from cutlayer.network.transport.limits import Lane, Limits
from cutlayer.network.transport.listener import listen
from cutlayer.network.transport.messages import Hello
from cutlayer.settings.method import Quantizer
from cutlayer.wire.codec import decode_activations, encode_activations, encode_gradient
from cutlayer.wire.messages import ActivationsMessage, GradientMessage
from environment import describe

REPORTS = Path(__file__).parent / "reports"
# tsflora's 24 tokens, merged one and CLS of 8 images at the demo's cut, in 8 bits.
SHAPE, QUANTIZER = (8, 26, 128), Quantizer(bits=8)
LIMITS = Limits(hello_s=120.0)
COLUMNS = (
    tables.Column("devices", "devices", "count"),
    tables.Column("joined_s", "all joined after", "seconds"),
    tables.Column("resident_mb", "server resident (MB)"),
    tables.Column("device_kb", "of a device (kB)"),
    tables.Column("frames", "frames a second"),
    tables.Column("median_ms", "exchange, median (ms)"),
    tables.Column("slow_ms", "99th centile (ms)"),
    tables.Column("cpu", "server's cores busy"),
)


def frames() -> tuple[bytes, bytes]:
    """A frame of activations and one of their gradient."""
    torch.manual_seed(0)
    hidden = torch.randn(SHAPE)
    labels = torch.arange(SHAPE[0]) % 10
    up = ActivationsMessage(0, 0, 0, hidden=hidden, mask=None, labels=labels, num_classes=10)
    down = GradientMessage(0, 0, 0, gradient=hidden, loss=1.0)
    return encode_activations(up, QUANTIZER), encode_gradient(down, QUANTIZER)


async def be_devices(folder: Path, port: int, count: int, seconds: float, every_s: float) -> None:
    """Join all, say so, exchange frames for some time, and print every exchange's seconds."""
    frame, _ = frames()
    gate = asyncio.Semaphore(16)
    taken: list[float] = []

    async def join(number: int) -> Connection:
        async with gate:
            identity = load_device_identity(folder / "devices" / f"device-{number:04d}")
            hello = Hello(version="1", job="00", samples=1)
            return await connect(f"127.0.0.1:{port}", hello, identity, LIMITS)

    async def exchange(connection: Connection, end_s: float) -> None:
        await asyncio.sleep(random.uniform(0, every_s))
        while (start_s := time.perf_counter()) < end_s:
            await connection.send(Lane.UP, frame)
            await connection.receive(Lane.DOWN)
            taken.append(time.perf_counter() - start_s)
            await asyncio.sleep(max(0.0, every_s - (time.perf_counter() - start_s)))

    began = time.perf_counter()
    connections = await asyncio.gather(*map(join, range(count)))
    print(time.perf_counter() - began, flush=True)
    sys.stdin.readline()  # the server has looked at its memory
    end_s = time.perf_counter() + seconds
    await asyncio.gather(*(exchange(connection, end_s) for connection in connections))
    print(" ".join(f"{one:.6f}" for one in taken), flush=True)


async def serve(folder: Path, count: int, options: argparse.Namespace) -> dict[str, float]:
    """One line of the table."""
    _, gradient = frames()
    decoded = [0]
    listener = await listen(
        "127.0.0.1:0", lambda name, said: None, load_server_identity(folder), LIMITS
    )

    async def answer(connection: Connection) -> None:
        with suppress(NetworkError):
            while True:
                decode_activations(await connection.receive(Lane.UP))
                decoded[0] += 1
                await connection.send(Lane.DOWN, gradient)

    async def receive() -> None:
        while True:
            tasks.add(asyncio.create_task(answer(await listener.accept())))

    tasks: set[asyncio.Task[None]] = set()
    receiving = asyncio.create_task(receive())
    before = resident_bytes()
    words = [str(folder), listener.port, count, options.seconds, options.every]
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--be-devices", *map(str, words),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=2**26,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    joined_s = float(await process.stdout.readline())
    process.stdin.write(b"go\n")
    cpu_s, start_s = time.process_time(), time.perf_counter()
    taken = np.array((await process.stdout.readline()).split(), dtype=np.float64)
    wall_s = time.perf_counter() - start_s
    cpu_s = time.process_time() - cpu_s
    resident = resident_bytes()
    await process.wait()
    receiving.cancel()
    await listener.close("done", final=True)
    return {
        "devices": count,
        "joined_s": joined_s,
        "resident_mb": resident / 1e6,
        "device_kb": (resident - before) / count / 1e3,
        "frames": decoded[0] / wall_s,
        "median_ms": 1e3 * float(np.median(taken)),
        "slow_ms": 1e3 * float(np.quantile(taken, 0.99)),
        "cpu": cpu_s / wall_s,
    }


def resident_bytes() -> int:
    """Of this process, now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def measure(options: argparse.Namespace) -> None:
    """Every number of devices in a server process of its own."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "keys"
        keys.init(folder)
        keys.add_server(folder, ["127.0.0.1"])
        for number in range(max(options.devices)):
            keys.add_device(folder, f"device-{number:04d}")
        rows = []
        for count in options.devices:
            words = ["--be-server", str(folder), str(count)]
            settings = ["--seconds", str(options.seconds), "--every", str(options.every)]
            told = subprocess.run(
                [sys.executable, __file__, *words, *settings],
                check=True, stdout=subprocess.PIPE, text=True,
            ).stdout  # fmt: skip
            names = [column.key for column in COLUMNS]
            rows.append(dict(zip(names, map(float, told.split()), strict=True)))
            print(rows[-1], flush=True)
    up, down = frames()
    draw(rows)
    text = TEXT.format(
        environment=describe(), table=tables.markdown(rows, COLUMNS), up=len(up), down=len(down),
        every=options.every, seconds=options.seconds,
    )  # fmt: skip
    (REPORTS / "crowd.md").write_text(text)


def draw(rows: list[dict[str, float]]) -> None:
    with new_figure(REPORTS / "crowd.png", width=8.0, height=3.2) as figure:
        memory, latency = figure.subplots(1, 2)
        count = [row["devices"] for row in rows]
        memory.plot(count, [row["resident_mb"] for row in rows], marker="o")
        memory.set_ylabel("server resident (MB)")
        memory.set_ylim(bottom=0)
        for key, label in (("median_ms", "median"), ("slow_ms", "99th centile")):
            latency.plot(count, [row[key] for row in rows], marker="o", label=label)
        latency.set_ylabel("exchange (ms)")
        latency.set_ylim(bottom=0)
        latency.legend()
        for axes in (memory, latency):
            axes.set_xlabel("devices")


TEXT = """\
# Many devices on one server

{environment}

Devices that compute nothing: each sends a recorded frame of {up:,} bytes every {every:g} s, for
{seconds:g} s, over a connection of its own with mutual TLS and a certificate of its own. The server
receives, checks and decodes every frame and answers with a gradient of {down:,} bytes; it does not
train. All devices are one process, which shares the machine's cores with the server, so that
latencies are those of both.

{table}
of a device: what the server's memory grew by, over the number of devices. An exchange is from the
first byte sent to the last byte received, on the device; of few exchanges the 99th centile is the
slowest.

![memory and latency by number of devices](crowd.png)

    python benchmarks/crowd.py --seconds {seconds:g} --every {every:g}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--devices", type=lambda text: [int(one) for one in text.split(",")],
        default=[10, 100, 300, 1000],
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--be-server", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--be-devices", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_devices:
        folder, port, count, seconds, every = options.be_devices
        devices = be_devices(Path(folder), int(port), int(count), float(seconds), float(every))
        asyncio.run(devices)
    elif options.be_server:
        folder, count = options.be_server
        found = asyncio.run(serve(Path(folder), int(count), options))
        print(*found.values())
    else:
        measure(options)


if __name__ == "__main__":
    main()
