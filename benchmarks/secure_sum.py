"""What a secure sum takes: bytes a device, and processor time of a device and of the server.

    python benchmarks/secure_sum.py [--values 100000] [--write]

Devices and the server are in one process and pass each other frames. In each sum a quarter of the
devices (rounded down) die before their numbers arrive, so that their masks are restored; the time
of a device is the mean of those that are left. `--write` writes benchmarks/reports/secure_sum.md.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from cutlayer.drawing import tables
from cutlayer.drawing.tables import Column
from cutlayer.secure_sum.device import SumDevice
from cutlayer.secure_sum.fixed_point import to_words
from cutlayer.secure_sum.server import SumServer
from environment import describe

REPORT = Path(__file__).parent / "reports" / "secure_sum.md"
FLEETS = (8, 32, 100)
COLUMNS = [
    Column("devices", "devices", "count"),
    Column("lost", "of them lost", "count"),
    Column("up", "a device sends", "bytes"),
    Column("down", "a device receives", "bytes"),
    Column("plain", "adapter in float32", "bytes"),
    Column("device_s", "a device computes", "seconds"),
    Column("server_s", "the server computes", "seconds"),
    Column("exact", "exact", "text"),
]


def measure(count: int, values: int) -> dict[str, Any]:
    """One sum, its bytes and processor seconds, and whether it was exact."""
    rng = np.random.default_rng(count)
    numbers = {n: rng.uniform(-0.01, 0.01, values) for n in range(count)}
    devices = {n: SumDevice(n, 0, v) for n, v in numbers.items()}
    server = SumServer(0, dict.fromkeys(numbers, 1), values, 2 / 3)
    lost = set(range(count // 4))
    device_s, server_s, up, down = 0.0, 0.0, 0, 0
    started = time.process_time()
    frames: Any = server.begin()
    server_s += time.process_time() - started
    for step in (server.roster, server.delivery, server.ask_survivors, server.total):
        answers = {}
        for number, frame in frames.items():
            if step == server.ask_survivors and number in lost:
                continue
            started = time.process_time()
            answers[number] = devices[number].answer(frame)
            if number not in lost:
                device_s += time.process_time() - started
                up, down = up + len(answers[number]), down + len(frame)
        started = time.process_time()
        frames = step(answers)
        server_s += time.process_time() - started
    left = [n for n in numbers if n not in lost]
    exact = np.sum([to_words(numbers[n], count) for n in left], axis=0, dtype=np.uint32)
    return {
        "devices": count,
        "lost": len(lost),
        "up": up / len(left),
        "down": down / len(left),
        "plain": 4 * values,
        "device_s": device_s / len(left),
        "server_s": server_s,
        "exact": "yes" if (frames == exact).all() else "no",
    }


def page(rows: list[dict[str, Any]], values: int) -> str:
    """The report."""
    first, last = rows[0], rows[-1]
    return "\n".join(
        [
            "# What a secure sum takes",
            "",
            describe(),
            "",
            f"Adapters of {values:,} numbers; random values, one run; a threshold of two thirds. "
            "*exact*: the server's integers are the sum of the devices' own.",
            "",
            f"    python benchmarks/secure_sum.py --values {values} --write",
            "",
            tables.markdown(rows, COLUMNS),
            f"- Of {first['devices']} devices each sends {first['up'] / first['plain']:.3f} times "
            f"the bytes of a plain adapter; of {last['devices']}, "
            f"{last['up'] / last['plain']:.3f} times.",
            f"- A lost device costs the server a mask for each that is left: "
            f"{first['server_s']:.3f} s with {first['lost']} lost of {first['devices']}, "
            f"{last['server_s']:.2f} s with {last['lost']} of {last['devices']}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, default=100_000)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = [measure(count, options.values) for count in FLEETS]
    found = page(rows, options.values)
    print(found)
    if options.write:
        REPORT.write_text(found)


if __name__ == "__main__":
    main()
