"""The public API: every verb and type under `cutlayer`, alike in arguments, also in a notebook."""

import ast
import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cutlayer
from cutlayer.errors import JobError
from helpers import equal, small_job

VERBS = (
    "simulate", "resume", "compare", "plan", "sweep", "calibrate", "audit", "serve",
    "resume_serving", "join", "report", "track", "demo", "evaluate", "predict", "generate",
    "export", "export_device",
)  # fmt: skip


def few(*settings: str, **sections: object) -> cutlayer.Job:
    one_round = ("data.train_samples=60", "data.test_samples=20", "training.rounds=1")
    return small_job(*one_round, "devices.count=2", *settings, **sections)


def test_every_public_name_is_there_and_known_to_type_checkers() -> None:
    tree = ast.parse(Path(cutlayer.__file__).read_text())
    typed = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cutlayer.")
        for alias in node.names
    }
    assert typed == set(cutlayer.__all__) - {"__version__"}
    for name in cutlayer.__all__:
        assert getattr(cutlayer, name) is not None
        assert name in dir(cutlayer)
    assert set(VERBS) <= typed


def test_importing_the_package_loads_neither_torch_nor_pydantic() -> None:
    heavy = "('torch', 'pydantic', 'numpy')"
    code = f"import cutlayer, sys; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_beyond_the_first_all_arguments_of_a_verb_are_named(verb: str) -> None:
    arguments = list(inspect.signature(getattr(cutlayer, verb)).parameters.values())
    for argument in arguments[1:]:
        assert argument.kind is inspect.Parameter.KEYWORD_ONLY, argument.name


def test_jobs_by_label_are_compared_each_with_its_own_data(tmp_path: Path) -> None:
    jobs = {"small": few(), "none sent": few(method="fedlora"), "other data": few("seed=1")}
    found = cutlayer.compare(jobs, out=tmp_path / "out")
    assert found.labels == ["small", "none sent", "other data"]
    assert [result.job for result in found.results] == list(jobs.values())
    alone = cutlayer.simulate(jobs["other data"], out=tmp_path / "alone")
    assert equal(alone.adapter, found.results[2].adapter)
    assert "none sent" in (tmp_path / "out" / "comparison.md").read_text()
    assert not (tmp_path / "out" / "figures" / "labels.png").exists()


@pytest.mark.parametrize(
    ("jobs", "methods", "sentence"),
    [
        ({}, [], "give a dict of jobs by label alone"),
        ({"one": few()}, ["sflora"], "give a dict of jobs by label alone"),
        (few(), [], "names no methods to compare"),
        (few(), "sflora", "'sflora' names no methods to compare: give a list"),
        ({"a b": few(), "a-b": few()}, [], "'a b' would share a run folder with another line"),
        ({"..": few()}, [], "'..' is no label"),
        ({"": few()}, [], "'' is no label"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    jobs: object, methods: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=sentence):
        cutlayer.compare(jobs, methods=methods, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", ["serve", "join"])
def test_serve_and_join_work_where_an_event_loop_runs_already(inside: str, tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    ports: list[int] = []
    listening = threading.Event()
    said: list[str] = []

    def told(port: int) -> None:
        ports.append(port)
        listening.set()

    def serve() -> cutlayer.Result:
        options = cutlayer.ServeOptions("127.0.0.1:0")
        job = few("devices.count=1", method="fedlora")
        return cutlayer.serve(job, options=options, out=tmp_path / "run", on_port=told)

    def join() -> None:
        assert listening.wait(60)
        options = cutlayer.JoinOptions(f"127.0.0.1:{ports[0]}", name="cam-1", number=0)
        cutlayer.join(options, say=said.append)

    async def notebook() -> None:
        (serve if inside == "serve" else join)()

    other = threading.Thread(target=join if inside == "serve" else serve, daemon=True)
    other.start()
    asyncio.run(notebook())
    other.join(60)
    assert not other.is_alive()
    assert said[-1] == "the job is done"
    assert (tmp_path / "run" / "adapter").is_dir()


def test_a_device_in_a_notebook_leaves_when_it_is_interrupted() -> None:
    pytest.importorskip("grpc")
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(line: str) -> None:
        assert "trying again" in line
        signal.pthread_kill(main, signal.SIGINT)

    async def cell() -> None:
        cutlayer.join(cutlayer.JoinOptions("127.0.0.1:9", name="cam-1"), say=interrupt)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(cell())
    finally:
        signal.signal(signal.SIGINT, before)
        loop.close()
