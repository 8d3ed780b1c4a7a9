"""Devices behind slow, lossy links: network namespaces, 20 Mbit/s, 40 ms there and back, 1 % lost.

How long rounds take there, beside what the simulator predicts, is for benchmarks/link.py to say,
which makes the links: by the kernel's netem, or by itself where there is none.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("method", ["sflora", "tsflora"])
def test_eight_devices_behind_a_bad_link_finish_and_nobody_is_lost(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    import link

    options = argparse.Namespace(devices=8, mbps=20.0, rtt_ms=40.0, loss=1.0)
    job = link.job_of(link.METHODS[method], options.devices, rounds=2)
    with ExitStack() as stack:
        try:
            stack.enter_context(link.links(options, link.has_netem()))
        except (OSError, link.LinkError) as refused:
            pytest.skip(f"this machine makes no links between namespaces: {refused}")
        rows, _, _ = link.served(job, tmp_path / "run", linked=True)
    assert [row.lost for row in rows] == [[], []]
    assert all(len(row.decisions) == 8 for row in rows)
    assert rows[-1].accuracy is not None
