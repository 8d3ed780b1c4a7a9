"""The public API: every verb and type under `cutlayer`, alike in arguments, also in a notebook."""

import ast
import asyncio
import inspect
import pkgutil
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

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


SHOWN = re.findall(
    r"^::: cutlayer\.(\S+)(?:\n    options:\n      members: \[(.*)\])?",
    (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def shown_objects() -> Iterator[tuple[str, object]]:
    """What docs/api.md shows, by name: functions, classes, and the methods of these."""
    for path, members in SHOWN:
        found = pkgutil.resolve_name(f"cutlayer.{path}".replace(".solve", ":solve"))
        if isinstance(found, ModuleType):
            names = members.split(", ") if members else [n for n in vars(found) if n[0] != "_"]
            own = {name: getattr(found, name) for name in names}
            held = {n: o for n, o in own.items() if getattr(o, "__module__", "") == found.__name__}
        else:
            held = {path: found}
        for name, one in held.items():
            yield name, one
            for inner, method in vars(one).items() if inspect.isclass(one) else ():
                plain = getattr(method, "__func__", method)
                if inner[0] != "_" and inspect.isfunction(plain):
                    yield f"{name}.{inner}", plain


def explained_fields(one: object) -> set[str]:
    """Fields of a class that have a docstring of their own, on the line below."""
    found: set[str] = set()
    for kind in one.__mro__ if inspect.isclass(one) else ():
        if kind.__module__.startswith("cutlayer"):
            body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
            for field, below in pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    found.add(field.target.id)
    return found


@pytest.mark.parametrize(
    ("name", "one"), [pytest.param(*two, id=two[0]) for two in shown_objects()]
)
def test_every_parameter_on_the_page_of_the_api_is_explained(name: str, one: object) -> None:
    text = inspect.getdoc(one) or ""
    assert text, f"{name} has no docstring"
    initial = vars(one).get("__init__") if inspect.isclass(one) else None
    text += "\n" + (inspect.getdoc(initial) or "" if initial else "")
    own = explained_fields(one)
    if inspect.isclass(one) and issubclass(one, Exception):
        return  # a sentence is all that it holds
    for parameter in inspect.signature(one).parameters.values():
        named = parameter.name
        if named in ("self", "cls") or named[0] == "_" or "VAR" in parameter.kind.name:
            continue
        shape = r"( \[[^\]]*\])?( \([^)]*\))?"
        line = rf"`{named}`|\b{named}{shape}(,\s+\w+{shape})*:|\b{named} \["
        assert named in own or re.search(line, text), (
            f"{name}: say what {named} is, as `{named}: …`"
        )


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
