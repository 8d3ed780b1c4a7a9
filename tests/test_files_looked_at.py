"""Files that somebody else may have written: read, or refused with a sentence, and at once."""

import contextlib
import os
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.dashboard.watch import WatchedRuns
from cutlayer.errors import CutlayerError, JobError
from cutlayer.files import read_bounded
from cutlayer.harmless import harmless
from cutlayer.job import Job, dump_job, load_job, make_job, read_job
from cutlayer.model.cut import CutModel
from cutlayer.model.export import load_adapter, save_adapter
from cutlayer.model.weights import load_model
from cutlayer.plain_yaml import parse_yaml
from cutlayer.planning.calibration.record import read_calibration
from cutlayer.record.checkpoint import RunState, load_state, save_state
from cutlayer.record.row_lines import MAX_LINE_BYTES, line_of, read_rows
from cutlayer.reports.build_report import report
from report_runs import made_job, made_rows

QUICK, MANY = 100, 10_000
# Pieces that break readers of YAML and JSON, put where they hurt.
SHARP = (
    b"[" * 3000, b"{" * 3000, b"9" * 5000, b"-" * 300, b"NaN", b"1e999", b"null", b"\x00", b"\xff",
    b"\n", b'"', b": ", b"&a [*a]", b"!!python/object/apply:os.system ['true']", b"<<: 5\n", b"0x",
    b"2020-99-99", b"\xe2\x80\xae", b"\x1b[2J", b"{}", b"[]", b"-1", b"true", b"'os:system'", b"",
)  # fmt: skip
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@dataclass
class Looked:
    """A kind of file: a whole one, its name, and what reads the folder it lies in."""

    name: str
    whole: bytes
    read: Callable[[Path], object]


def model() -> CutModel:
    return load_model(Job().model, 10, 0)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Looked]:
    """Every kind of file that is looked at, with a whole one of each."""
    folder = tmp_path_factory.mktemp("whole")
    job = made_job(rounds=2)
    state = RunState(2, {"head.weight": torch.ones(3, 4)}, {1: {"head.weight": torch.ones(3, 4)}})
    save_state(folder / "state.safetensors", state)
    demo = model()
    save_adapter(demo.new_adapter(0), demo, folder)
    import cutlayer

    assets = Path(cutlayer.__file__).parent / "assets"
    record = "".join(line_of(row) + "\n" for row in made_rows(job)).encode()

    def beside(name: str) -> bytes:
        return (folder / name).read_bytes()

    weights, config = beside("adapter_model.safetensors"), beside("adapter_config.json")

    def adapter(other: str, content: bytes) -> Callable[[Path], object]:
        def read(place: Path) -> object:
            (place / other).write_bytes(content)
            return load_adapter(place, demo)

        return read

    return {
        "job": Looked("job.yaml", dump_job(job).encode(), lambda p: read_job(p / "job.yaml")),
        "record": Looked("rounds.jsonl", record, lambda p: read_rows(p, lambda said: None)),
        "state": Looked(
            "state.safetensors",
            beside("state.safetensors"),
            lambda p: load_state(p / "state.safetensors"),
        ),
        "adapter": Looked(
            "adapter_model.safetensors", weights, adapter("adapter_config.json", config)
        ),
        "config": Looked(
            "adapter_config.json", config, adapter("adapter_model.safetensors", weights)
        ),
        "calibration": Looked(
            "c.json",
            (assets / "demo-calibration.json").read_bytes(),
            lambda p: read_calibration(p / "c.json"),
        ),
    }  # fmt: skip


KINDS = ("job", "record", "state", "adapter", "config", "calibration")


def damaged(whole: bytes, seed: int) -> bytes:
    """A file with a few places changed: cut, repeated, overwritten, or with something sharp."""
    rng = random.Random(seed)
    content = bytearray(whole)
    # Headers and first lines are where a change tells.
    reach = rng.choice((200, 2000, len(content)))
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(min(reach, len(content)) + 1) if content else 0
        length = rng.choice((0, 1, 4, 40))
        piece = rng.choice(
            (rng.choice(SHARP), rng.randbytes(8), bytes(content[place : place + 40]))
        )
        content[place : place + length] = piece
    return bytes(content[: rng.choice((len(content), rng.randint(0, len(content))))])


def look(kind: Looked, folder: Path, content: bytes) -> None:
    """Read a file that may be anything; nothing but a sentence may come of it."""
    (folder / kind.name).write_bytes(content)
    with contextlib.suppress(CutlayerError):
        kind.read(folder)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=QUICK)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_file_is_a_sentence_or_the_right_answer(
    kinds: dict[str, Looked], tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int
) -> None:
    place = tmp_path_factory.getbasetemp()
    look(kinds[kind], place, damaged(kinds[kind].whole, seed))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_files_take_under_a_second_and_200_mb_each(
    kinds: dict[str, Looked], tmp_path: Path, kind: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest = 0.0
    for seed in range(MANY):
        content = damaged(kinds[kind].whole, seed)
        start = time.process_time()
        look(kinds[kind], tmp_path, content)
        slowest = max(slowest, time.process_time() - start)
    assert slowest < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


SPECIAL = ("pipe", "device", "huge", "folder", "loop", "missing")


def make_special(path: Path, kind: str) -> None:
    """Something other than a file of a usual size at `path`."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        path.touch()
        os.truncate(path, 2**42)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("kind", KINDS)
def test_a_special_file_is_refused_at_once(
    kinds: dict[str, Looked], tmp_path: Path, kind: str, special: str
) -> None:
    make_special(tmp_path / kinds[kind].name, special)
    if (kind, special) == ("record", "huge"):
        assert kinds[kind].read(tmp_path) == []
        return
    with pytest.raises(CutlayerError):
        kinds[kind].read(tmp_path)


def test_a_file_of_more_than_it_may_have_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="more than the 4 bytes"):
        read_bounded(tmp_path / "a", 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "more than 20000 values"),
        (LAUGHS + "method: {name: *j}\n", "more than 20000 values"),
        ("model: " + "[" * 20000 + "]" * 20000, "nested more than"),
        ("model: " + "{a: " * 5000 + "1" + "}" * 5000, "nested more than"),
        ("a: &a [*a]\n", "stands for no whole value"),
        ("seed: " + "9" * 5000, "5000 characters"),
        ("seed: " + "9" * 400, "a number has 400 characters"),
        ("seed: 2020-99-99", "month"),
        ("seed: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("x" * 300_000, "300000 characters"),
        ("a: b: c", "not YAML"),
        ("? [1, 2]\n: 3\n", "not YAML"),
        ("model: '\x1b[2J'", "character 9 is #x001b, and control characters are not allowed"),
    ],
)
def test_yaml_that_is_more_than_a_job_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        parse_yaml(text)
    assert "\n" not in str(error.value)


def test_yaml_with_anchors_for_what_is_repeated_is_read() -> None:
    assert parse_yaml("a: &q {bits: 4}\nb: *q\n") == {"a": {"bits": 4}, "b": {"bits": 4}}


@pytest.mark.parametrize(
    "section",
    [
        {"devices": {"count": 10**9}},
        {"devices": {"count": 10**15}},
        {"training": {"rounds": 10**12}},
        {"training": {"batch_size": 10**12}},
        {"training": {"pool": 10**12}},
        {"model": {"lora": {"rank": 10**9}}},
        {"model": {"image_size": 10**7}},
        {"seed": 2**70},
        {"seed": -1},
        {"seed": int("9" * 4000)},
        {"model": {1: 2}},
        {"method": [1, 2]},
        {"method": {"name": {"a": 1}}},
    ],
    ids=str,
)
def test_numbers_beyond_any_machine_are_refused_in_a_short_sentence(section: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(JobError) as refused:
        make_job(section)
    assert len(str(refused.value)) < 400


# ---- looking runs no code ----


@pytest.fixture
def named_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file behind when it is imported."""
    trace = tmp_path / "imported"
    (tmp_path / "evilmod.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return trace


@pytest.mark.parametrize(
    "setting",
    [
        "name", "tokens.score", "uplink.levels", "downlink.levels", "allocation.solver",
    ],
)  # fmt: skip
def test_looking_at_a_run_imports_nothing_that_its_job_names(
    named_module: Path, tmp_path: Path, setting: str
) -> None:
    job = made_job(rounds=2)
    *sections, last = setting.split(".")
    values = job.model_dump(mode="json")
    place = values["method"]
    for section in sections:
        place = place[section]
    place[last] = "evilmod:X"
    values["method"]["uplink"]["rounding"] = values["method"]["downlink"]["rounding"] = "nearest"
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    import yaml

    (run / "job.yaml").write_text(yaml.safe_dump(values))
    record = "".join(line_of(row) + "\n" for row in made_rows(job))
    (run / "rounds.jsonl").write_text(record)
    (seen,), _ = WatchedRuns(tmp_path / "runs").look()
    assert seen.state == "finished"
    report([run], out=tmp_path / "r.html", images=1)
    assert not named_module.exists()
    if setting == "name":
        with pytest.raises(JobError, match="cannot import"):
            load_job(run / "job.yaml")
        assert named_module.exists()


def test_a_job_that_only_names_code_is_not_guessed_at(tmp_path: Path, named_module: Path) -> None:
    (tmp_path / "job.yaml").write_text("method: 'evilmod:X'\n")
    with pytest.raises(JobError, match="is code, which is not run"):
        read_job(tmp_path / "job.yaml")
    assert not named_module.exists()


# ---- the list of runs ----


def hostile_folders(root: Path, count: int) -> None:
    """Run folders that are damaged, each in another way."""
    ways: list[Callable[[Path], object]] = [
        lambda p: (p / "job.yaml").write_text(LAUGHS),
        lambda p: (p / "job.yaml").write_text("model: " + "[" * 20000),
        lambda p: (p / "job.yaml").write_text("seed: " + "9" * 5000),
        lambda p: (p / "job.yaml").write_text("method: 'os:system'\n"),
        lambda p: (p / "job.yaml").write_bytes(b"\xff\xfe\x00"),
        lambda p: make_special(p / "job.yaml", "huge"),
        *(
            lambda p, kind=kind: make_special(p / "rounds.jsonl", kind)  # type: ignore[misc]
            for kind in SPECIAL
        ),
        lambda p: (p / "rounds.jsonl").write_bytes(b"x" * (MAX_LINE_BYTES + 9)),
        lambda p: (p / "rounds.jsonl").write_text('{"loss": NaN}\n' * 9),
        lambda p: (p / "rounds.jsonl").write_text("[" * 90_000 + "\n"),
    ]
    for number in range(count):
        run = root / f"bad-{number:03d}"
        good_folder(run)
        ways[number % len(ways)](run)


def good_folder(run: Path) -> None:
    run.mkdir(parents=True)
    job = made_job(rounds=1)
    (run / "job.yaml").write_text(dump_job(job))
    (run / "rounds.jsonl").write_text("".join(line_of(r) + "\n" for r in made_rows(job)))


def test_hostile_folders_cost_themselves_in_the_list_of_runs(tmp_path: Path) -> None:
    hostile_folders(tmp_path, 15)
    good_folder(tmp_path / "good")
    (tmp_path / "round-and-round").symlink_to(tmp_path)
    changed, _ = WatchedRuns(tmp_path).look()
    states = {seen.name: seen.state for seen in changed}
    assert states["good"] == "finished"
    assert all(seen.fault or seen.note for seen in changed if seen.name != "good")
    assert len(states) == 16


@pytest.mark.slow
def test_two_hundred_folders_of_which_twenty_are_hostile_are_listed_within_a_second(
    tmp_path: Path,
) -> None:
    for number in range(180):
        good_folder(tmp_path / f"run-{number:03d}")
    hostile_folders(tmp_path, 20)
    start = time.process_time()
    changed, _ = WatchedRuns(tmp_path).look()
    taken_s = time.process_time() - start
    assert sum(seen.state == "finished" for seen in changed) >= 180
    assert taken_s < 1


# ---- what is shown ----


def test_what_is_shown_holds_nothing_that_a_terminal_obeys() -> None:
    hostile = "\x1b[2J\x1b]0;title\x07\r\n\x9b31m\u202e\u2028\ud800 [bold]x[/]"
    shown = harmless(hostile)
    assert shown.isprintable()
    assert shown.startswith(r"\x1b[2J\x1b]0;title\x07\r\n\x9b31m\u202e\u2028\ud800 ")
    assert harmless("Grüße, 世界") == "Grüße, 世界"


def test_a_failing_command_shows_harmless_text(capsys: pytest.CaptureFixture[str]) -> None:
    from cutlayer.commands.console import fail

    with pytest.raises(SystemExit):
        fail("training: the other side left (\x1b[2J\r\nroot@server# )")
    shown = capsys.readouterr().err
    assert "\x1b[2J" not in shown
    assert r"\x1b[2J\r\nroot@server#" in shown
