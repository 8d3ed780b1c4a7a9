"""Traces as they come: compressed, unfinished, in degrees, with outages."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from cutlayer.errors import WorldError
from cutlayer.job import Job, make_job
from cutlayer.model.families import describe
from cutlayer.planning.plan import plan
from cutlayer.planning.virtual_clock import VirtualClock
from cutlayer.simulation.simulate import simulate
from cutlayer.world import trace_files
from cutlayer.world.link_traces import read_rates
from cutlayer.world.traces import read_positions

RATES = "time_s,device,uplink_bps,downlink_bps\n0,0,8e6,4e7\n100,0,8e6,4e7\n"
FCD = (
    "<fcd-export>{}"
    '<timestep time="0"><vehicle id="a" x="{}" y="{}" speed="20"/></timestep>'
    '<timestep time="10"><vehicle id="a" x="{}" y="{}" speed="20"/></timestep>'
    "</fcd-export>"
)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_traces_are_read_whatever_they_are_called(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "rates.csv").write_bytes(pack(RATES.encode()))
    assert read_rates(tmp_path / "rates.csv", 1).up.tolist() == [8e6, 8e6]
    packed = pack(FCD.format("", 0, 0, 200, 0).encode())
    (tmp_path / "fcd.xml.gz").write_bytes(packed)
    assert read_positions(tmp_path / "fcd.xml.gz", 1).x_m.tolist() == [0, 200]
    (tmp_path / "fcd.xml.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(WorldError, match=r"fcd\.xml\.gz is unfinished"):
        read_positions(tmp_path / "fcd.xml.gz", 1)


def test_a_trace_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_files, "MAX_FILE_BYTES", 2**20)
    (tmp_path / "a.csv").write_bytes(gzip.compress(bytes(2**21)))
    with pytest.raises(WorldError, match="more than the 1 MiB that are read"):
        read_rates(tmp_path / "a.csv", 1)


def test_an_unfinished_table_says_so(tmp_path: Path) -> None:
    (tmp_path / "rates.csv").write_text(RATES[:-12])
    with pytest.raises(WorldError, match=r"line 3 breaks off: the file is unfinished"):
        read_rates(tmp_path / "rates.csv", 1)


def test_positions_in_degrees_are_refused(tmp_path: Path) -> None:
    option = '<!-- <output><fcd-output.geo value="true"/></output> -->'
    trace = tmp_path / "fcd.xml"
    for text in (
        FCD.format("", 13.3777, 52.5163, 13.3806, 52.5164),
        FCD.format(option, 500, 0, 700, 0),
    ):
        trace.write_text(text)
        with pytest.raises(WorldError, match=r"longitudes and latitudes .*without --fcd-output"):
            read_positions(trace, 1)
    trace.write_text(FCD.format("", 10, 5, 170, 5))  # metres, however few
    assert read_positions(trace, 1).x_m.tolist() == [10, 170]
    csv = "time_s,device,x_m,y_m,speed_mps\n0,0,13.3777,52.5163,20\n10,0,13.3806,52.5164,20\n"
    (tmp_path / "a.csv").write_text(csv)
    with pytest.raises(WorldError, match="in degrees"):
        read_positions(tmp_path / "a.csv", 1)


def outage(folder: Path, way: str, method: str = "sflora") -> Job:
    """Three devices, of which the middle one has no rate one way from the start on."""
    dead = {"up": "0,4e7", "down": "8e6,0"}[way]
    rows = [
        f"{time},{device},{dead if device == 1 else '8e6,4e7'}"
        for time in (0, 100000)
        for device in range(3)
    ]
    path = folder / "rates.csv"
    path.write_text("time_s,device,uplink_bps,downlink_bps\n" + "\n".join(rows) + "\n")
    return make_job(
        {
            "method": method,
            "devices": {"count": 3},
            "data": {"train_samples": 60, "test_samples": 20},
            "training": {"rounds": 1, "batch_size": 8},
            "world": {"rates_path": str(path)},
        }
    )


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("method", ["sflora", "st-sflora", "auto"])
def test_a_plan_leaves_out_a_device_in_an_outage_and_says_why(
    tmp_path: Path, way: str, method: str
) -> None:
    found = plan(outage(tmp_path, way, method))
    assert sorted(found.decided.decisions) == [0, 2]
    assert found.sentences()[-1] == (f"left out 1: outage: its {way}link rate is 0")


def test_a_run_leaves_out_a_device_in_an_outage_and_records_why(tmp_path: Path) -> None:
    (row,) = simulate(outage(tmp_path, "up"), out=tmp_path / "run").rows
    assert sorted(row.decisions) == [0, 2]
    assert row.left_out == {1: "outage: its uplink rate is 0"}


def test_a_round_that_reaches_nobody_says_why(tmp_path: Path) -> None:
    job = outage(tmp_path, "up")
    with pytest.raises(WorldError, match="device 1 has an outage"):
        VirtualClock(job, describe(job.model)).reachable(0, [1])
