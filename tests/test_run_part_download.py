"""A part of the model is fetched once, goes on where it broke off, and is never damaged."""

from pathlib import Path

import pytest

from cutlayer.network import file_transfer
from cutlayer.network.transport.messages import Fetch
from fleet_helpers import crowd, served
from helpers import equal, small_job


@pytest.fixture
def fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What devices ask of the server: files, and from which byte on."""
    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    asked: list[tuple[str, int]] = []

    def noted(name: str, offset: int) -> Fetch:
        asked.append((name, offset))
        return Fetch(name, offset)

    monkeypatch.setattr(file_transfer, "Fetch", noted)
    return asked


def test_a_part_is_fetched_once_and_goes_on_where_it_broke_off(
    tmp_path: Path, fetches: list[tuple[str, int]]
) -> None:
    job = small_job("devices.count=1", "data.train_samples=20", "training.rounds=1")

    def run(name: str) -> dict[str, object]:
        with crowd() as devices:
            found = served(job, tmp_path / name, lambda port: devices.join(port, 0))
        assert devices.errors == {}
        return found.adapter

    first = run("first")
    whole = list(fetches)
    assert whole
    assert {offset for _, offset in whole} == {0}

    fetches.clear()
    run("cached")
    assert fetches == []

    (part,) = (tmp_path / "cache" / "parts").iterdir()
    file = max(part.iterdir(), key=lambda path: path.stat().st_size)
    content, half = file.read_bytes(), file.stat().st_size // 2
    partial = part / f".{file.name}.device-0000.part"
    partial.write_bytes(content[:half])
    file.unlink()
    assert equal(run("resumed"), first)
    assert fetches == [(file.name, half)]
    assert file.read_bytes() == content

    # A piece that was damaged on the disk: found out by the hash, and all is fetched anew.
    fetches.clear()
    partial.write_bytes(bytes([content[0] ^ 1]) + content[1:half])
    file.unlink()
    assert equal(run("mended"), first)
    assert fetches == [(file.name, half), (file.name, 0)]
    assert file.read_bytes() == content
    assert not partial.exists()
