"""A setting without effect is refused, or said where only the method goes without it."""

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from cutlayer import methods
from cutlayer.errors import JobError
from cutlayer.job import Job, change_job, dump_job, load_job, make_job
from cutlayer.model.families import describe
from cutlayer.train.check import check
from cutlayer.train.settings_read import CONDITIONS, MODALITIES
from cutlayer.train.unread import unread

GENERATED = {"generator": {"source": "demo"}}


def fields(section: type[BaseModel] = Job, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name, with its annotation."""
    for name, field in section.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        below = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if below:
            yield from fields(below[0], f"{path}{name}.")
        else:
            yield f"{path}{name}", field.annotation


FIELDS = dict(fields())


def job_of(method: str, *settings: str) -> Job:
    """A job with every section; the method named by itself keeps its preset."""
    base = make_job({"method": method, "world": {}, "generated": GENERATED})
    return change_job(base, settings)


def choices(annotation: Any) -> list[str]:
    """Values of a type's literals, and some of every other kind."""
    literals = [a for a in get_args(annotation) if isinstance(a, str | int | bool)]
    nested = [v for a in get_args(annotation) for v in get_args(a) if isinstance(v, str | int)]
    plain = [
        "true",
        "false",
        "2",
        "3",
        "8",
        "30",
        "0.4",
        "0.95",
        "1.5",
        "[1,3]",
        "[2]",
        "[flip]",
        "umi",
        "rician",
    ]
    return [*map(str, literals), *map(str, nested), *plain, "{Bag: bag}", "'a {}'", "x"]


def value_at(job: Job, field: str) -> Any:
    value: Any = job
    for name in field.split("."):
        value = None if value is None else getattr(value, name)
    return value


@cache
def another(field: str) -> str | None:
    """A value that a job of some method takes for a field and that is not its default."""
    for method in ("sflora", "tsflora"):
        default = value_at(job_of(method), field)
        for text in choices(FIELDS[field]):
            try:
                job = job_of(method, f"{field}={text}")
            except JobError:
                continue
            if value_at(job, field) != default:
                return text
    return None


def test_the_table_names_settings_that_there_are() -> None:
    assert {*CONDITIONS, *MODALITIES} <= set(FIELDS)


@pytest.mark.parametrize("method", methods.NAMES)
def test_every_setting_of_a_method_is_read_or_named_with_value_and_remedy(method: str) -> None:
    base = job_of(method)
    assert unread(base) == []
    walked = 0
    for field in FIELDS:
        text = another(field)
        if text is None or field == "method.name":
            continue
        try:
            job = change_job(base, [f"{field}={text}"])
        except JobError:
            continue  # refused as it is written
        walked += 1
        for one in unread(job, "image"):
            said = one.sentence()
            assert said.startswith(f"{one.field}: {one.value!r} has no effect: ")
            assert "leave" in said or "set " in said
            # Only what the job itself names: the field, or those whose reader it took away.
            assert value_at(job, one.field) != value_at(base, one.field)
    assert walked > 80


@pytest.mark.parametrize("method", methods.NAMES)
def test_a_saved_job_with_all_defaults_written_out_says_nothing_more(method: str, tmp_path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(dump_job(job_of(method)))
    assert unread(load_job(path), "image") == []


TAIL = "model.tail=1 method.generated=false"
REFUSED = [
    ("st-sflora", "method.tokens.keep=12"),
    ("auto", "method.tokens.keep=12"),
    ("auto", "method.cut=3"),
    ("asfl", "method.cut=3"),
    ("sflora", "method.tokens.score=received"),
    ("sflora", "method.uplink.levels=gaussian"),
    ("sflora", "method.uplink.rotate=true"),
    ("sflora", "method.downlink.rounding=stochastic"),
    ("tsflora", "method.uplink.rate_bits=2"),
    ("sflora", "method.uplink.codec=klt method.uplink.rounding=stochastic"),
    ("lean", f"{TAIL} method.tail_downlink.codec=klt method.tail_downlink.rounding=stochastic"),
    ("sflora", f"{TAIL} method.tail_uplink.rounding=stochastic"),
    ("sflam", "method.uplink.bits=4"),
    ("sflam", "method.downlink.rotate=true"),
    ("st-sflora-full", "method.downlink.bits=8"),
    ("st-sflora", "method.adapter_bits=16"),
    ("fedlora", "method.tokens.keep=12"),
    ("fedlora", "method.uplink.bits=8"),
    ("fedlora", "method.server_adapter=shared"),
    ("local-lora", "method.adapter_bits=16"),
    ("centralized", "method.order=sequential"),
    ("sflora", "method.allocation.quality_min=0.5"),
    ("asfv", "method.allocation.rates_bps=[0,1,2,3]"),
    ("auto", "method.allocation.tokens_min=3"),
    ("st-sflora", "method.allocation.bits=[4]"),
    ("sflora", "data.partition.exponent=2"),
    ("sflora", "data.partition.kind=iid data.partition.alpha=0.1"),
    ("sflora", "data.label_column=y"),
    ("sflora", "model.max_tokens=32"),
    ("sflora", "world.rician_k_db=3"),
    ("sflora", "world.device_height_m=2"),
    ("sflora", "world.path_loss=umi world.exponent=3"),
    ("sflora", "world.shadowing_rounds=2"),
    ("sflora", "world.mobility.lanes=4"),
    ("sflora", "world.mobility.kind=highway world.mobility.start_s=3"),
    ("sflora", "world.mobility.kind=highway world.fleet.placement=area"),
    ("sflora", "generated.generator.template='x {}'"),
]

SAID = [
    ("fedlora", "model.cut=3"),
    ("asfl", "model.cut=3"),
    ("sflam", "model.cut=3"),
    ("sflora", "method.train=full model.lora.rank=4"),
    ("local-lora", "training.server_optimizer=adam"),
    ("centralized", "training.clip_update_norm=1"),
    ("fedlora", "world.serving=pooled"),
    ("local-lora", "generated.amount=50"),
]

READ = [
    ("st-sflora", "method.allocation.solver=equal method.tokens.keep=12"),
    ("tsflora", "method.tokens.score=received method.tokens.rest=drop"),
    ("sflam", "method.train=full method.downlink.levels=gaussian method.downlink.rounding=nearest"),
    ("auto", "method.device=trained method.downlink.bits=4"),
    ("sflora", "method.uplink.bits=4 method.uplink.levels=gaussian method.uplink.rotate=true"),
    ("lean", f"{TAIL} method.tail_uplink.codec=klt method.tail_uplink.rounding=stochastic"),
    ("sflora", f"{TAIL} method.tail_uplink.codec=klt method.tail_uplink.rounding=stochastic"),
    ("sflora", "model.cut=3"),
    ("auto", "model.cut=3"),
    ("fedlora", "method.adapter_bits=16"),
    ("sflora", "world.shadowing_db=8 world.shadowing_rounds=2"),
    ("sflora", "method.allocation.solver=own_solvers:a_cut_each method.allocation.cuts=[1]"),
]


@pytest.mark.parametrize(("method", "settings"), REFUSED, ids=lambda value: str(value))
def test_a_setting_without_effect_is_refused(method: str, settings: str) -> None:
    job = job_of(method, *settings.split(" ", settings.count("=") - 1))
    field = settings.split(" ", settings.count("=") - 1)[-1].partition("=")[0]
    with pytest.raises(JobError, match=f"^{field}: .* has no effect: "):
        check(job, describe(job.model))


@pytest.mark.parametrize(("method", "settings"), SAID, ids=lambda value: str(value))
def test_what_only_the_method_goes_without_is_said(method: str, settings: str) -> None:
    job = job_of(method, *settings.split())
    check(job, describe(job.model))
    assert [one.field for one in unread(job)] == [settings.split()[-1].partition("=")[0]]


@pytest.mark.parametrize(("method", "settings"), READ, ids=lambda value: str(value))
def test_what_is_read_is_let_through(method: str, settings: str) -> None:
    job = job_of(method, *settings.split())
    assert unread(job, "image") == []
