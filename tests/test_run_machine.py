"""What a device tells of its machine, also where the system knows neither affinity nor /proc."""

from pathlib import Path

import psutil
import pytest

pytest.importorskip("grpc")

from cutlayer.network.device import machine


def test_a_device_knows_its_processor_cores_memory_and_speed() -> None:
    found = machine.describe_machine()
    assert found.processor
    assert 1 <= found.cores <= psutil.cpu_count()
    assert found.memory_bytes > 2**28
    assert found.flops_per_s > 1e6


def test_a_device_knows_its_machine_where_the_system_says_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on macOS, which has no affinity, and on Windows, which has no /proc."""

    def nothing(self: Path) -> str:
        raise FileNotFoundError

    monkeypatch.delattr(psutil.Process, "cpu_affinity")
    monkeypatch.setattr(Path, "read_text", nothing)
    monkeypatch.setattr("platform.processor", lambda: "")
    found = machine.describe_machine()
    assert found.processor
    assert found.cores == psutil.cpu_count()
