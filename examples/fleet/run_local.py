"""A server and its devices on one machine, with keys, each a process of its own.

python examples/fleet/run_local.py [JOB] [--devices N] [--keys FOLDER] [--port PORT]

Devices take their part of the job's data (--share); on a real fleet each has its own (--data).
Stop it with Ctrl-C; what it prints last says how to go on.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CUTLAYER = [sys.executable, "-m", "cutlayer"]


def main() -> int:
    """Make keys where there are none, start all processes, and wait for the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", nargs="?", type=Path, default=HERE / "job.yaml")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--keys", type=Path, default=Path("keys"))
    parser.add_argument("--port", type=int, default=7311)
    options = parser.parse_args()
    names = [f"device-{number:04d}" for number in range(options.devices)]
    make_keys(options.keys, names)
    address = f"127.0.0.1:{options.port}"
    # Processes that share a machine do best with a core each.
    one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
    count = f"devices.count={options.devices}"
    serve = [*CUTLAYER, "serve", str(options.job), "--set", count, "--listen", address]
    server = subprocess.Popen([*serve, "--keys", str(options.keys)])
    devices = [
        subprocess.Popen(
            [*CUTLAYER, "join", address, "--share", "--keys", str(options.keys / "devices" / name)],
            env=one_core,
            stdout=subprocess.DEVNULL,
        )
        for name in names
    ]
    try:
        return server.wait()
    except KeyboardInterrupt:
        return server.wait()
    finally:
        for device in devices:
            device.send_signal(signal.SIGTERM)
        for device in devices:
            device.wait()


def make_keys(folder: Path, names: list[str]) -> None:
    """An authority, the server's certificate and one for each device, unless they are there."""
    options = ["--keys", str(folder)]
    if not (folder / "authority.crt").exists():
        subprocess.run([*CUTLAYER, "keys", "init", *options], check=True)
        subprocess.run([*CUTLAYER, "keys", "server", "127.0.0.1", *options], check=True)
    missing = [name for name in names if not (folder / "devices" / name).exists()]
    if missing:
        subprocess.run([*CUTLAYER, "keys", "device", *missing, *options], check=True)


if __name__ == "__main__":
    sys.exit(main())
