"""Vehicles driven by SUMO: a shipped scenario run headless, its positions written as a trace.

SUMO (https://eclipse.dev/sumo) comes with the extra `sumo`; nothing else here needs it, since a
trace that was written once replays without it (mobility.kind trace).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.resources
import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cutlayer.errors import WorldError
from cutlayer.files import write_atomically
from cutlayer.seeds import derive, numpy_rng
from cutlayer.world.traces import POSITION_COLUMNS

SCENARIOS = {"highway": "2 km of three lanes each way past a road-side unit at (0, 0), as a ring"}
DENSITIES = {"low": 4.0, "medium": 12.0, "high": 30.0}
"""Number of vehicles on a kilometre of a lane: free flow, dense, and near a jam."""

_ROADS = {"eastbound": 2000.0, "east-loop": 430.0, "westbound": 2000.0, "west-loop": 430.0}
_LANES = 3
_TICK_S = 0.5
_SETTLING_S = 180.0


def export(
    out: str | Path,
    *,
    scenario: str = "highway",
    density: str = "low",
    seconds: float = 600.0,
    every_s: float = 1.0,
    vehicles: int = 20,
    seed: int = 0,
) -> int:
    """Drive `scenario` and write the trace of some vehicles; returns how many vehicles drove.

    out: CSV (time_s, device, x_m, y_m, speed_mps) with the road-side unit at (0, 0), for
    world.mobility.path. every_s: seconds between rows; replay joins rows by straight lines.
    vehicles: how many are written, drawn from all that drive; the road is a ring, so they return.
    Raises WorldError for an unknown scenario or density, and where SUMO is not installed or fails.
    """
    for name, value, known in (
        ("scenario", scenario, SCENARIOS),
        ("density", density, DENSITIES),
    ):
        if value not in known:
            raise WorldError(f"--{name}: {value!r} is none of {', '.join(known)}")
    there = int(DENSITIES[density] * _LANES * sum(_ROADS.values()) / 1000)
    if not 1 <= vehicles <= there:
        raise WorldError(
            f"--vehicles: {vehicles} of the {there} that drive at density {density!r}: take 1 to "
            f"{there}, or a higher density"
        )
    if seconds < every_s or every_s < _TICK_S:
        raise WorldError(
            f"--every: {every_s:g} s between rows of a trace of {seconds:g} s: take "
            f"{_TICK_S:g} s or more, and a longer trace"
        )
    rows: list[str] = [",".join(POSITION_COLUMNS)]
    with _running(scenario, seed) as sumo:
        _fill(sumo, there, seed)
        chosen = numpy_rng(seed, "sumo", "chosen").permutation(there)[:vehicles]
        for row in range(int(seconds / every_s) + 1):
            sumo.simulationStep(_SETTLING_S + row * every_s)
            driving = set(sumo.vehicle.getIDList())
            for device, number in enumerate(chosen):
                if str(number) in driving:
                    x_m, y_m = sumo.vehicle.getPosition(str(number))
                    speed = sumo.vehicle.getSpeed(str(number))
                    rows.append(f"{row * every_s:g},{device},{x_m:.1f},{y_m:.1f},{speed:.2f}")
    path = Path(out)
    try:
        write_atomically(path, ("\n".join(rows) + "\n").encode())
    except OSError as error:
        raise WorldError(
            f"--out: cannot write {path} ({error.strerror}): name a file in a folder that exists"
        ) from None
    return there


def _fill(sumo: Any, vehicles: int, seed: int) -> None:
    """Put vehicles on all roads, by their lengths."""
    rng = numpy_rng(seed, "sumo", "start")
    share = np.array(list(_ROADS.values())) / sum(_ROADS.values())
    for number, road in enumerate(rng.choice(list(_ROADS), vehicles, p=share)):
        sumo.vehicle.add(
            str(number),
            f"from-{road}",
            typeID="car",
            departLane="random",
            departPos="random_free",
            departSpeed="avg",
        )


@contextlib.contextmanager
def _running(scenario: str, seed: int) -> Iterator[Any]:
    """SUMO in this process with the scenario loaded, closed at the end."""
    sumo, netconvert = _sumo()
    folder = importlib.resources.files("cutlayer.assets") / "sumo"
    with importlib.resources.as_file(folder) as files, tempfile.TemporaryDirectory() as made:
        network = Path(made) / "network.xml"
        built = subprocess.run(
            [netconvert, "-n", files / f"{scenario}.nod.xml", "-e", files / f"{scenario}.edg.xml",
             "-o", network, "--offset.disable-normalization", "--no-turnarounds"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if built.returncode:
            raise WorldError(f"SUMO's netconvert failed: {_first_line(built.stderr)}")
        try:
            sumo.start(
                ["sumo", "-n", str(network), "-r", str(files / f"{scenario}.rou.xml"),
                 "--step-length", str(_TICK_S), "--seed", str(derive(seed, "sumo") % 2**31),
                 "--time-to-teleport", "-1", "--no-step-log", "--no-warnings",
                 "--duration-log.disable"]
            )  # fmt: skip
            yield sumo
        except (sumo.TraCIException, sumo.FatalTraCIError) as error:
            raise WorldError(f"SUMO failed: {_first_line(str(error))}") from None
        finally:
            sumo.close()


def _sumo() -> tuple[Any, str]:
    """libsumo and the path of netconvert. Raises WorldError without them."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            libsumo = importlib.import_module("libsumo")
            home = Path(importlib.import_module("sumo").SUMO_HOME)
    except ImportError:
        raise WorldError(
            "world sumo: SUMO is not installed: pip install cutlayer[sumo] (a trace that was "
            "written elsewhere replays without it)"
        ) from None
    found = shutil.which("netconvert", path=str(home / "bin")) or shutil.which("netconvert")
    if found is None:
        raise WorldError("world sumo: SUMO has no netconvert: pip install cutlayer[sumo]")
    return libsumo, found


def _first_line(text: str) -> str:
    return (text.strip() or "no reason given").splitlines()[0]
