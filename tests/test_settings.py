"""Every setting of a job says in a few words what it does, and earlier names are refused by it."""

from inspect import isclass
from typing import get_args

import pytest
from typer.testing import CliRunner

import cutlayer
from cutlayer import cli
from cutlayer.job import Job, change_job, load_job
from cutlayer.settings.explanations import ExplainedSection, explain
from cutlayer.settings.generator import GeneratorTraining
from cutlayer.settings.section import Section

SECTIONS = [*explain(Job), *explain(GeneratorTraining, "generator training")]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.path)
def test_every_setting_has_an_explanation_of_a_few_lines(section: ExplainedSection) -> None:
    assert section.purpose.endswith(".")
    for one in section.settings:
        assert f"{one.name}:" not in section.purpose, f"{one.name} has a place of its own"
        assert one.explanation.endswith("."), f"{one.name}: one or more sentences are due"
        assert len(one.explanation) <= 300, f"{one.name}: that is more than three lines"
        assert "[I" not in one.explanation, f"{one.name}: say what was inferred by us"


def test_every_setting_of_a_job_has_its_line() -> None:
    lines = [f"{section.path}.{one.name}" for section in explain(Job) for one in section.settings]
    assert len(lines) == len(set(lines))
    wanted, left = set(), [("", Job)]
    while left:
        path, section = left.pop()
        for name, field in section.model_fields.items():
            parts = [field.annotation, *get_args(field.annotation)]
            inner = [one for one in parts if isclass(one) and issubclass(one, Section)]
            left += [(f"{path}.{name}".lstrip("."), one) for one in inner]
            if not inner:
                wanted.add(f"{path}.{name}")
    assert wanted == set(lines)


def test_defaults_are_those_of_the_job() -> None:
    for section in explain(Job):
        given = [
            f"{section.path}.{one.name}={one.default}".lstrip(".")
            for one in section.settings
            if section.path and not section.path.startswith(("method", "generated"))
        ]
        world = ["world={}"] if section.path.startswith("world") else []
        assert load_job(None, [*world, *given]) == load_job(None, world)


def said(*words: str) -> str:
    found = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["settings", *words])
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.output


def test_the_command_line_explains_all_a_section_or_one_setting() -> None:
    whole, world, one = said(), said("world"), said("world.mobility.lanes")
    assert "rician_k_db" in world
    assert "lane_width_m" in world
    assert "local_epochs" not in world
    assert "local_epochs" in whole
    assert "lanes" in one
    assert "lane_width_m" not in one


@pytest.mark.parametrize(
    ("wanted", "remedy"),
    [("wrld", "did you mean world"), ("training.lrr", "training.lr"), ("?", "sections are model")],
)
def test_what_is_no_setting_is_refused_with_the_nearest(wanted: str, remedy: str) -> None:
    with pytest.raises(cutlayer.CutlayerError, match=remedy):
        said(wanted)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("augment={generator: {source: demo}}", "^job: 'augment' is called 'generated' now"),
        ("method.augmented=false", "^method: 'augmented' is called 'generated' now"),
    ],
)
def test_an_earlier_name_is_refused_by_the_new_one(setting: str, sentence: str) -> None:
    with pytest.raises(cutlayer.CutlayerError, match=sentence):
        load_job(None, [setting])


def test_an_earlier_name_without_a_value_says_nothing() -> None:
    job = load_job(None, ["method=genfl"])
    assert change_job(job, ["augment=null", "method.augmented=null"]) == job
