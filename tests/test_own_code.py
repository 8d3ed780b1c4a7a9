"""Code of one's own that a job names: errors name the setting, edits are seen, runs keep hashes."""

import json
import sys
from pathlib import Path

import pytest

import cutlayer
from cutlayer.errors import JobError, RunError
from cutlayer.fingerprint import of_file
from cutlayer.job import Job, make_job
from cutlayer.own_code import refresh
from helpers import small_job

NEAREST = """
from cutlayer import Decision, PlanningInput, RoundDecisions


def some(known: PlanningInput) -> RoundDecisions:
    one = Decision(known.job.cut, None, 8, 8, known.bandwidth_hz / 4, power_w=0.2)
    return RoundDecisions({device: one for device in known.devices[:1]})
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    path = tmp_path / "my_parts.py"
    path.write_text(NEAREST)
    return path


def job(*settings: str) -> Job:
    own = "method.allocation.solver=my_parts:some"
    few = ("data.train_samples=60", "data.test_samples=20", "training.rounds=1")
    return small_job(*few, own, *settings, world={})


@pytest.mark.parametrize(
    "setting",
    [
        "method.tokens.score", "method.uplink.levels", "method.downlink.levels",
        "method.allocation.solver", "generated.weight", "world.path_loss", "world.fading",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere:f", "cannot import 'nowhere:f'"),
        (":f", "cannot import ':f'"),
        ("my_parts:", "cannot import 'my_parts:'"),
        ("my_parts:NUMBER", "is not a function"),
        ("broken:f", r"cannot import 'broken:f' \(SyntaxError: "),
        ("failing:f", r"cannot import 'failing:f' \(ZeroDivisionError: "),
    ],
)
def test_every_setting_that_names_code_is_named_where_it_cannot_be_had(
    setting: str, name: str, sentence: str, module: Path, tmp_path: Path
) -> None:
    module.write_text("NUMBER = 3\n")
    (module.parent / "broken.py").write_text("def f(:\n")
    (module.parent / "failing.py").write_text("1 / 0\n")
    more = {"generated": {"generator": {"source": "demo"}}} if "generated" in setting else {}
    wrong = small_job(f"{setting}='{name}'", world={}, **more)
    with pytest.raises(JobError, match=f"^{setting}: .*{sentence}"):
        cutlayer.simulate(wrong, out=tmp_path / "run")


def test_a_method_that_cannot_be_had_is_one_sentence(module: Path) -> None:
    module.write_text("1 / 0\n")
    with pytest.raises(JobError, match=r"^method\.name: cannot import 'my_parts:MINE' \(Zero"):
        make_job({"method": "my_parts:MINE"})


def test_an_edited_module_is_loaded_afresh_in_the_same_process(module: Path) -> None:
    first = cutlayer.plan(job())
    # Of the same size and within the same second, which Python's own cache does not tell apart.
    module.write_text(NEAREST.replace("known.devices[:1]", "known.devices[:3]"))
    second = cutlayer.plan(job())
    assert len(first.decided.decisions) == 1
    assert len(second.decided.decisions) == 3


def test_an_edited_method_is_read_afresh(module: Path) -> None:
    text = "from cutlayer import Method\n\nMINE = Method(name='mine', adapter_bits=16)\n"
    module.write_text(text)
    assert make_job({"method": "my_parts:MINE"}).method.adapter_bits == 16
    module.write_text(text.replace("16", "32"))
    assert make_job({"method": "my_parts:MINE"}).method.adapter_bits == 32


def test_a_run_keeps_the_hash_of_the_code_and_goes_on_with_no_other(
    module: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    cutlayer.simulate(job(), out=folder)
    hashes = json.loads((folder / "code.json").read_text())
    assert hashes == {"method.allocation.solver": of_file(module)}
    cutlayer.resume(folder)
    module.write_text(NEAREST + "\n")
    with pytest.raises(
        RunError, match=r"^--resume: method\.allocation\.solver names my_parts:some"
    ):
        cutlayer.resume(folder)


def test_a_run_of_published_parts_has_no_file_of_hashes(tmp_path: Path) -> None:
    assert refresh(small_job().own_code) == {}


def test_a_function_may_be_given_as_an_object(tmp_path: Path) -> None:
    def first(known: cutlayer.PlanningInput) -> cutlayer.RoundDecisions:
        one = cutlayer.Decision(known.job.cut, None, 8, 8, known.bandwidth_hz / 4, power_w=0.2)
        return cutlayer.RoundDecisions(dict.fromkeys(known.devices[:1], one))

    settings = {"data": {"train_samples": 60, "test_samples": 20}, "world": {}}
    chosen = make_job(
        {
            **settings,
            "devices": {"count": 3},
            "training": {"rounds": 1, "batch_size": 8},
            "method": {"name": "sflora", "allocation": {"solver": first}},
        }
    )
    assert [len(row.decisions) for row in cutlayer.simulate(chosen, out=tmp_path / "run").rows] == [
        1
    ]
    named = chosen.method.allocation.solver
    assert named.startswith("given_here:first_")
    assert make_job({**settings, "method": {"allocation": {"solver": named}}})

    def second(known: cutlayer.PlanningInput) -> cutlayer.RoundDecisions:
        return cutlayer.RoundDecisions({})

    assert (
        make_job({"method": {"allocation": {"solver": second}}}).method.allocation.solver != named
    )


def test_a_function_of_a_file_is_named_by_it(module: Path) -> None:
    from importlib import import_module

    some = import_module("my_parts").some
    solver = make_job({"method": {"allocation": {"solver": some}}}).method.allocation.solver
    assert solver == "my_parts:some"


def test_a_function_of_another_process_is_refused_by_a_sentence() -> None:
    chosen = job("method.allocation.solver=given_here:gone_0123")
    with pytest.raises(JobError, match="was a function of a notebook or a prompt"):
        refresh(chosen.own_code)


def test_a_function_where_none_belongs_is_refused() -> None:
    with pytest.raises(JobError, match=r"training\.rounds"):
        make_job({"training": {"rounds": refresh}})


@pytest.mark.parametrize(
    ("setting", "name", "where"),
    [
        ("method.tokens.score", "os:system", r" \(TypeError"),
        ("method.tokens.score", "failing_later:own", r" at failing_later\.py, line 4 \(KeyError"),
        ("method.allocation.solver", "failing_later:own", r" at failing_later\.py, line 4 "),
    ],
)
def test_code_that_fails_as_it_runs_is_one_sentence_with_its_line(
    setting: str, name: str, where: str, module: Path, tmp_path: Path
) -> None:
    failing = "def own(*_, **__):\n    found = {}\n\n    return found['nothing']\n"
    module.with_name("failing_later.py").write_text(failing)
    settings = [f"{setting}={name}"]
    if setting.endswith("score"):
        settings += ["method=tsflora", "method.tokens.keep=9", f"{setting}={name}"]
    with pytest.raises(JobError, match=f"^{setting}: '{name}' failed{where}.*: mend it$") as why:
        cutlayer.simulate(job(*settings), out=tmp_path / "run")
    assert not isinstance(why.value.__cause__, JobError)
