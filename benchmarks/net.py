"""Exchanges over loopback under mutual TLS 1.3: time of one, throughput, bytes on the wire.

python benchmarks/net.py [--repeats N] [--flower PYTHON] [--write]

The device is a process of its own; between it and the server stands a relay that counts bytes,
except while times are taken. --flower: the interpreter of an environment with flwr, in which
flower.py then measures the same exchange. --write: benchmarks/reports/net.md.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cutlayer.errors import NetworkError
from cutlayer.network.transport import keys
from cutlayer.network.transport.client import connect
from cutlayer.network.transport.connection import Connection
from cutlayer.network.transport.identity import load_device_identity, load_server_identity
from cutlayer.network.transport.limits import Lane
from cutlayer.network.transport.listener import Listener, listen
from cutlayer.network.transport.messages import Hello
from environment import describe

REPORTS = Path(__file__).parent / "reports"
LARGE = 16 * 2**20
SIZES = (4096, 2**16, 2**20, 2**23)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000, help="exchanges of 4 kB")
    parser.add_argument("--device", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--flower", metavar="PYTHON", help="of an environment with flwr")
    parser.add_argument("--write", action="store_true", help="write benchmarks/reports/net.md")
    options = parser.parse_args()
    if options.device:
        folder, port = options.device
        asyncio.run(be_device(Path(folder), int(port)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(be_server(Path(folder) / "keys", options.repeats))
    if options.flower:
        script = Path(__file__).parent / "flower.py"
        told = subprocess.run(
            [options.flower, script], check=True, stdout=subprocess.PIPE, text=True
        )
        found.append(told.stdout.strip())
    lines = "\n".join(f"- {line}" for line in found)
    print(lines)
    if options.write:
        (REPORTS / "net.md").write_text(TEXT.format(environment=describe(), lines=lines))


TEXT = """\
# What one exchange takes

{environment}

Over loopback, the device a process of its own. The server sends a frame and the device answers with
one of the same size, over one connection with mutual TLS 1.3; between them stands a relay that
counts bytes, except while times are taken.

{lines}

Flower is there to show what a batch would take in a framework whose nodes ask for work every few
seconds: it is made for few, long exchanges, one a round. Its SuperLink and SuperNode are processes
of the same machine, idle but for this.

    python benchmarks/net.py --flower PYTHON --write
"""


async def be_device(folder: Path, port: int) -> None:
    """Echo every frame until the server is done."""
    device = await connect(
        f"127.0.0.1:{port}", Hello(version="1", job="00", samples=1), load_device_identity(folder)
    )
    try:
        while True:
            await device.send(Lane.UP, await device.receive(Lane.DOWN))
    except NetworkError:
        return


async def be_server(folder: Path, repeats: int) -> list[str]:
    """What was found, a line each."""
    keys.init(folder)
    keys.add_server(folder, ["127.0.0.1"])
    bundle = keys.add_device(folder, "device")
    listener = await listen("127.0.0.1:0", lambda name, said: None, load_server_identity(folder))
    found = await exchanges(listener, bundle, repeats) + await overhead(listener, bundle)
    await listener.close("done", final=True)
    return found


async def exchanges(listener: Listener, bundle: Path, repeats: int) -> list[str]:
    process = start(bundle, listener.port)
    connection = await listener.accept()
    median, slow = await timed(connection, 4096, repeats)
    large, _ = await timed(connection, LARGE, 20)
    await connection.close("done", final=True)
    await asyncio.to_thread(process.wait)
    return [
        f"4 kB there and back: median {1e3 * median:.2f} ms, 99th centile {1e3 * slow:.2f} ms in "
        f"{repeats} exchanges",
        f"16 MiB there and back: {2 * LARGE / large / 1e6:.0f} MB/s",
    ]


async def timed(connection: Connection, size: int, repeats: int) -> tuple[float, float]:
    """Median and 99th centile of the seconds of an exchange."""
    frame = os.urandom(size)
    seconds = []
    for i in range(repeats + repeats // 10):
        start_s = time.perf_counter()
        await connection.send(Lane.DOWN, frame)
        await connection.receive(Lane.UP)
        if i >= repeats // 10:
            seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds), sorted(seconds)[int(0.99 * repeats)]


async def overhead(listener: Listener, bundle: Path) -> list[str]:
    """Bytes of TCP payload that frames take both ways, beyond their own."""
    passed = [0]

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(2**16):
            passed[0] += len(chunk)
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to = await asyncio.open_connection("127.0.0.1", listener.port)
        await asyncio.gather(relay(reader, to[1]), relay(to[0], writer), return_exceptions=True)

    server = await asyncio.start_server(both, "127.0.0.1", 0)
    process = start(bundle, server.sockets[0].getsockname()[1])
    connection = await listener.accept()
    found = [f"handshakes and greeting: {passed[0]:,} bytes"]
    for size in SIZES:
        before = passed[0]
        await timed(connection, size, 10)
        each = (passed[0] - before) / 22
        more = 100 * (each / size - 1)
        found.append(f"a frame of {size:,} bytes takes {each:,.0f} on the wire ({more:.2f} % more)")
    await connection.close("done", final=True)
    await asyncio.to_thread(process.wait)
    server.close()
    return found


def start(bundle: Path, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--device", str(bundle), str(port)])


if __name__ == "__main__":
    main()
