"""The command line: what it prints, and errors as one sentence without a traceback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from cutlayer.cli import app, main
from cutlayer.job import dump_job
from helpers import small_job


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Run the command line in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["cutlayer", *map(str, words)])
    before = signal.getsignal(signal.SIGTERM)
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(dump_job(small_job("training.rounds=1")))
    return path


def test_simulate_says_what_it_measured_and_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], job_file: Path
) -> None:
    out = job_file.parent / "run"
    assert run(monkeypatch, "simulate", job_file, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "round 1/1  loss" in printed
    assert str(out / "adapter") in printed
    for name in ("job.yaml", "rounds.jsonl", "adapter/adapter_model.safetensors"):
        assert (out / name).stat().st_size > 0
    figures = sorted(path.name for path in (out / "figures").iterdir())
    assert figures == ["accuracy-by-megabyte.png", "accuracy-by-round.png", "labels.png"]


def test_compare_prints_one_table_with_the_saving_against_sflora(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], job_file: Path
) -> None:
    out = job_file.parent / "comparison"
    methods = "sflora, small = tsflora tokens.keep=12 uplink.bits=4, fedlora, centralized"
    assert run(monkeypatch, "compare", job_file, "--methods", methods, "--out", out) == 0
    table = (out / "comparison.md").read_text().split("\n## ")[0]
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if "|" in line}
    header = [cell.strip() for cell in lines["method"].split("|")]
    ratio = header.index("saving (x)")

    def ratio_of(label: str) -> str:
        return lines[label].split("|")[ratio].strip()

    assert float(ratio_of("sflora")) == 1.0
    # 14 of 50 tokens at 4 bits up and at 8 bits down, plus adapters: well above five times less.
    assert float(ratio_of("small")) > 5
    assert ratio_of("centralized") == "-"
    assert {"over JPEG (x)", "over WebP (x)"} <= set(header)
    assert "over text (x)" not in header
    assert "comparison.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["simulate", "none.yaml"], "there is no file none.yaml"),
        (["simulate", "--set", "model.path=/nowhere"], "/nowhere"),
        (["simulate", "--set", "devices.per_round=30"], "per_round is 30"),
        (["compare", "--budget", "5 eggs"], "--budget: '5 eggs' is no amount"),
        (["compare", "--target", "70"], "--target: 70 is no accuracy"),
        (["simulate", "--resume", "nowhere"], "nowhere holds no run"),
        (["simulate", "job.yaml", "--resume", "run"], "leave out JOB"),
        (["compare", "--methods", "sflora, sflroa"], "no method is called 'sflroa'"),
        (["compare", "--methods", "sflora, sflora"], "is named twice"),
        (["compare", "--methods", "tsflora tokens=few"], "method.tokens"),
        (["compare", "--methods", ""], "--methods"),
    ],
)
def test_an_error_is_one_sentence_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["methods"], ["models"], ["data"], ["--version"]])
def test_what_can_be_named_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(monkeypatch, *words) in (0, 2)  # without a command the help is printed
    assert capsys.readouterr().out


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; sys.argv = ['cutlayer', '--help']\n"
        "from cutlayer.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(dump_job(small_job("training.rounds=50")))
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "cutlayer", "simulate", job, "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 300
    while not (out / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "of 50 rounds; go on with: cutlayer simulate --resume" in errors
    assert "Traceback" not in errors
    assert not list(out.glob("**/.*"))  # nothing half-written


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (["join", "127.0.0.1:1", "--share"], "grpc", r"cutlayer[device]"),
        (["serve", "--keys", "keys"], "cryptography", "cutlayer[server]"),
        (["keys", "init"], "cryptography", "cutlayer[server]"),
        (["dashboard", "."], "uvicorn", "cutlayer[dashboard]"),
        (["simulate", "--set", "data.source=parquet", "--set", "data.path=."], "pyarrow", "server"),
    ],
)
def test_a_package_that_is_not_there_is_named_with_its_extra(
    tmp_path: Path, words: list[str], package: str, extra: str
) -> None:
    code = "import sys; sys.modules[sys.argv.pop(1)] = None; from cutlayer.cli import main; main()"
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    found = subprocess.run(
        [sys.executable, "-c", code, package, *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert f"{package} is not installed" in found.stderr
    assert extra in found.stderr
    assert "Traceback" not in found.stderr


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command, groups included."""
    group = group or typer.main.get_command(app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_help_fits_80_columns_and_describes_what_it_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, *words, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    assert command.help
    nameless = [one.name for one in command.params if not getattr(one, "help", "")]
    assert nameless == []
