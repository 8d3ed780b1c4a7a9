"""What one 4 kB exchange takes in Flower, for the report of net.py; in an environment with flwr.

python benchmarks/flower.py [--repeats 20]      (pip install flwr==1.41.0)

A SuperLink and a SuperNode, processes of this machine, without TLS and so with less to do than
ours. A ServerApp sends the node a message with 4,096 bytes and waits until the ClientApp's answer
with as many is there, as its `send_and_receive` does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

PORT, NODE_PORT = 18600, 18601
PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "exchange"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "exchange:server"
clientapp = "exchange:client"

[tool.flwr.app.config]
repeats = 1
out = ""
"""
APP = """\
import json
import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


def content():
    return RecordDict({"frame": ConfigRecord({"bytes": os.urandom(4096)})})


@client.query()
def echo(message, context):
    return Message(content(), reply_to=message)


@server.main()
def main(grid, context):
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    seconds = []
    for _ in range(context.run_config["repeats"] + 2):
        start_s = time.perf_counter()
        message = Message(content(), dst_node_id=nodes[0], message_type="query")
        [reply] = grid.send_and_receive([message])
        assert len(reply.content["frame"]["bytes"]) == 4096
        seconds.append(time.perf_counter() - start_s)
    Path(context.run_config["out"]).write_text(json.dumps(seconds[2:]))
"""
CONNECTION = f"""\
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{PORT}"
insecure = true
"""


@contextmanager
def running(*words: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """A process of Flower's, as long as the context lasts."""
    with log.open("w") as file:
        process = subprocess.Popen(words, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def exchanges(folder: Path, repeats: int) -> list[float]:
    """Seconds of each exchange."""
    app, home, out = folder / "app", folder / "home", folder / "seconds.json"
    for made in (app, home):
        made.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "exchange.py").write_text(APP)
    (home / "config.toml").write_text(CONNECTION)
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    link = ("flower-superlink", "--insecure", "--port", str(PORT),
            "--disable-runtime-dependency-installation")  # fmt: skip
    node = ("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{PORT}",
            "--port", str(NODE_PORT))  # fmt: skip
    run = ("flwr", "run", str(app), "here", "--run-config", f"repeats={repeats} out='{out}'")
    with (
        running(*link, environment=environment, log=folder / "superlink.log"),
        running(*node, environment=environment, log=folder / "supernode.log"),
    ):
        time.sleep(5)  # until both answer
        started = subprocess.run(run, env=environment, capture_output=True, text=True)
        until = time.monotonic() + 60 + 10 * repeats
        while started.returncode == 0 and time.monotonic() < until:
            time.sleep(1)
            if out.exists():
                return list(json.loads(out.read_text()))
    logs = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("*.log")))
    raise SystemExit(f"Flower ended without an answer: {started.stdout}{started.stderr}\n{logs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="exchanges of 4 kB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = exchanges(Path(folder), options.repeats)
    print(
        f"Flower {version('flwr')}, 4 kB there and back, without TLS: median "
        f"{statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s in "
        f"{len(seconds)} exchanges"
    )


if __name__ == "__main__":
    main()
