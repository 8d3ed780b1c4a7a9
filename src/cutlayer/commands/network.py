"""`cutlayer serve` and `cutlayer join`: a job over a real network, from the command line."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cutlayer.commands.console import console, say, say_end
from cutlayer.errors import JobError, NetworkError

app = typer.Typer()

PORT = 7311
PANEL = "Over a network"

Keys = Annotated[Path | None, typer.Option(help="Folder of keys, as `cutlayer keys` makes them.")]
Log = Annotated[
    str | None, typer.Option(help="A file for one JSON object an event; - for standard error.")
]


class Provider(StrEnum):
    """What computes on a light device."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    COREML = "coreml"
    QNN = "qnn"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """Numbers in which a light device computes."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


@app.command(rich_help_panel=PANEL)
def serve(
    job: Annotated[
        Path | None, typer.Argument(help="A YAML job; without one, the built-in defaults.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A setting on top of the job, as in training.rounds=3.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; a new one below runs/.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run in this folder, without a JOB; --set training.rounds=N gives "
            "it other rounds, --set devices.count=N more devices."
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help=f"HOST:PORT; with keys 0.0.0.0:{PORT}, without them 127.0.0.1:{PORT}.",
        ),
    ] = None,
    keys: Keys = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Let anyone in who reaches the address, without keys."),
    ] = False,
    min_devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Devices that must be ready before a round begins; else as many as it trains.",
        ),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="S",
            help="Seconds that the first round waits for more devices, once one is ready.",
        ),
    ] = None,
    patience: Annotated[
        float, typer.Option(min=1, metavar="S", help="Seconds a device may take for one answer.")
    ] = 120.0,
    deadline: Annotated[
        float | None,
        typer.Option(min=1, metavar="S", help="Seconds a round may take; the rest are left out."),
    ] = None,
    farewell: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="S",
            help="Seconds that the server stays up at the end, for devices that are away.",
        ),
    ] = 60.0,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Answer Prometheus at HOST:PORT, as in 127.0.0.1:9311."
        ),
    ] = None,
    virtual: Annotated[
        bool,
        typer.Option(
            "--virtual", help="Allocate and time rounds by the job's world, not by measured rates."
        ),
    ] = False,
    log: Log = None,
) -> None:
    """Train a job with the devices that join: this machine is the edge server."""
    from cutlayer.job import load_job
    from cutlayer.network.server import serve as runs
    from cutlayer.network.server.timeouts import Timeouts
    from cutlayer.network.transport.identity import load_server_identity
    from cutlayer.rounds.progress import OnConsole
    from cutlayer.rounds.run_folder import changes_to_resume

    if resume and (job or out):
        raise JobError("--resume: the folder holds its job: leave out JOB and --out")
    identity = load_server_identity(keys, say) if keys else None
    address = listen or f"{'0.0.0.0' if identity else '127.0.0.1'}:{PORT}"
    waits = Timeouts(
        min_devices,
        begin_s=math.inf if wait is None else wait,
        answer_s=patience,
        round_s=deadline or math.inf,
        farewell_s=farewell,
    )
    options = runs.ServeOptions(address, identity, insecure, waits, metrics, log, virtual)

    def told(port: int) -> None:
        host = address.rpartition(":")[0]
        secured = "with keys" if identity else "WITHOUT keys: anyone who reaches it can join"
        say(f"listening on {host}:{port}, {secured}")

    with OnConsole(console, "serve") as progress:
        try:
            if resume:
                changes = changes_to_resume(settings or [], grows=True)
                result = runs.resume_serving(
                    resume,
                    rounds=changes.rounds,
                    devices=changes.devices,
                    options=options,
                    progress=progress,
                    on_port=told,
                )
            else:
                chosen = load_job(job, settings or [])
                result = runs.serve(
                    chosen, options=options, out=out, progress=progress, on_port=told
                )
        except KeyboardInterrupt:
            progress.__exit__(None, None, None)
            say(progress.interrupted(f" --keys {keys}" if keys else ""))
            raise typer.Exit(130) from None
    say_end(result)


@app.command(rich_help_panel=PANEL)
def join(
    address: Annotated[str, typer.Argument(help="HOST:PORT of the server.")],
    data: Annotated[
        Path | None,
        typer.Option(help="This device's samples: a folder of images a class, or tables."),
    ] = None,
    share: Annotated[
        bool,
        typer.Option(
            "--share", help="Instead: the part of the job's own data that a simulation gives it."
        ),
    ] = False,
    keys: Keys = None,
    name: Annotated[
        str | None, typer.Option(help="What to be called; with keys, as the certificate says.")
    ] = None,
    number: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Which device of the job to be.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The checkpoint, if it is on this machine already.")
    ] = None,
    light: Annotated[
        bool | None,
        typer.Option(
            "--light/--torch",
            help="Run programs that the server makes; the default where torch is missing.",
        ),
    ] = None,
    provider: Annotated[
        Provider, typer.Option(help="What computes on a light device, where onnxruntime has it.")
    ] = Provider.CPU,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Numbers in which a light device computes, where the job does not choose them."
        ),
    ] = Precision.FLOAT32,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Measure memory and time of a batch, and leave again."),
    ] = False,
    log: Log = None,
) -> None:
    """Take part in the job of a server with this machine's data, until it is finished."""
    if (data is None) != share:
        raise NetworkError(
            "--data: name this device's samples, or say --share for its part of the job's own data"
        )
    from cutlayer.network.device.join import JoinOptions
    from cutlayer.network.device.join import join as take_part
    from cutlayer.network.transport.identity import load_device_identity

    identity = load_device_identity(keys, say) if keys else None
    if identity is None and name is None:
        name = _host_name()
    place = JoinOptions(
        address,
        identity,
        name,
        number,
        data,
        model=model,
        light=light,
        provider=provider.value,
        precision=precision.value,
        probe=probe,
    )
    try:
        take_part(place, say=say, log=log)
    except KeyboardInterrupt:
        say("left: join again to go on")
        raise typer.Exit(130) from None


def _host_name() -> str:
    import platform
    import re

    return re.sub(r"[^A-Za-z0-9._-]", "-", platform.node())[:63].lstrip(".-_") or "device"
