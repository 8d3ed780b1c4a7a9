"""The list of hashes holds what constraints.txt pins, and is never written without them."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def lock_hashes() -> ModuleType:
    """The script."""
    spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts" / "lock_hashes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(*packages: tuple[str, str, str]) -> dict[str, Any]:
    """As pip tells it: names, versions and hashes."""
    return {
        "install": [
            {
                "metadata": {"name": name, "version": version},
                "download_info": {"archive_info": {"hashes": {"sha256": digest}}},
            }
            for name, version, digest in packages
        ]
    }


def test_every_pin_but_torchs_has_a_hash(lock_hashes: ModuleType) -> None:
    locked = (ROOT / "hashes-linux-x86_64-cp311.txt").read_text()
    pins = lock_hashes.pins_of((ROOT / "constraints.txt").read_text())
    held = [lock_hashes.spelled(pin) for pin in lock_hashes.pins_of(locked)]
    assert held
    assert sorted(held) == sorted(map(lock_hashes.spelled, pins))
    hashes = [line for line in locked.splitlines() if not line.startswith("#")]
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}$", line) for line in hashes)


def test_the_list_has_a_line_for_each_pin_as_it_is_spelled(lock_hashes: ModuleType) -> None:
    found = lock_hashes.locked(
        ["Some_Package==1.0", "other==2"],
        report(("some-package", "1.0", "a" * 64), ("Other", "2", "b" * 64)),
    )
    assert found.splitlines()[1:] == [
        f"other==2 --hash=sha256:{'b' * 64}",
        f"Some_Package==1.0 --hash=sha256:{'a' * 64}",
    ]


@pytest.mark.parametrize(
    ("pins", "told", "sentence"),
    [
        (["one==1"], {}, "no SHA-256 for 1 of 1 pins, one==1 the first"),
        (["one==1"], report(), "no SHA-256 for 1 of 1"),
        (["one==1", "two==2"], report(("one", "1", "a" * 64)), "1 of 2 pins, two==2 the first"),
        (["one==1"], report(("one", "1", "")), "no SHA-256 for 1 of 1"),
        (["one==1"], report(("one", "2", "a" * 64)), "no SHA-256 for 1 of 1"),
        ([], report(), "names no packages"),
        (
            ["one==1"],
            report(("one", "1", "a" * 64), ("two", "2", "b" * 64)),
            "install two==2, which",
        ),
    ],
)
def test_no_list_is_made_without_the_hash_of_every_pin(
    lock_hashes: ModuleType, pins: list[str], told: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        lock_hashes.locked(pins, told)


def test_a_file_is_left_as_it_was_where_pip_fails(
    lock_hashes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(pins: list[str]) -> dict[str, Any]:
        raise ValueError("pip ended with 1: its own sentences stand above")

    monkeypatch.setattr(lock_hashes, "report_of", fails)
    held = tmp_path / "hashes.txt"
    held.write_text("as it was")
    assert "is left as it was: pip ended with 1" in lock_hashes.main([str(held)])
    assert held.read_text() == "as it was"
    assert "name the file to write" in lock_hashes.main([])
