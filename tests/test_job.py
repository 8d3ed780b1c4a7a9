"""Jobs: the same thing as an object and as YAML; what cannot be run is refused in one sentence."""

from pathlib import Path

import pytest

from cutlayer import methods
from cutlayer.errors import JobError
from cutlayer.job import Job, change_job, dump_job, load_job, make_job
from cutlayer.settings.method import Method


@pytest.mark.parametrize("name", methods.NAMES)
def test_a_job_survives_yaml(tmp_path: Path, name: str) -> None:
    job = make_job({"method": {"name": name, "tokens": {"rest": "drop"}}, "seed": 7})
    (tmp_path / "job.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "job.yaml") == job


def test_a_method_by_name_has_its_preset() -> None:
    assert make_job({"method": "tsflora"}).method == methods.find_method("tsflora")


def test_settings_go_on_top_of_the_preset() -> None:
    job = load_job(None, ["method=tsflora", "method.uplink.bits=4"])
    assert job.method.uplink.bits == 4
    assert job.method.uplink.rounding == "stochastic"
    assert job.method.tokens.keep == 40


def test_another_method_brings_its_own_preset() -> None:
    job = change_job(load_job(None, ["method=tsflora"]), ["method=fedlora"])
    assert job.method == methods.find_method("fedlora")


MINE = Method(name="mine", tokens={"keep": 3})


def test_a_method_of_ones_own_is_named_by_module() -> None:
    method = make_job({"method": {"name": f"{__name__}:MINE", "uplink": {"bits": 2}}}).method
    assert (method.tokens.keep, method.uplink.bits) == (3, 2)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"modle": {}}, "modle: there is no such field; did you mean model?"),
        ({"model": {"cutt": 3}}, "model.cutt: there is no such field; did you mean cut?"),
        ({"model": {"cut": -1}}, "model.cut: -1 will not do: input should be greater"),
        ({"model": {"image_size": "x"}}, "model.image_size: 'x' will not do"),
        ({"devices": {"count": 2, "per_round": 3}}, "per_round is 3 but there are 2 devices"),
        ({"devices": {"count": 0}}, "devices.count: 0 will not do"),
        ({"method": "foo"}, "no method is called 'foo': take one of centralized"),
        ({"method": "no.such:THING"}, "cannot import 'no.such:THING'"),
        ({"method": "os:path"}, "is a module, not a Method"),
        ({"method": {"name": "tsflora", "uplink": {"bits": 11}}}, "11 bits cannot be packed"),
        ({"method": {"name": "tsflora", "uplink": {"codec": "jpeg"}}}, "method.uplink.codec"),
        ({"method": {"name": "tsflora", "uplink": {"step": 0.0}}}, "method.uplink.step"),
        ({"method": {"name": "tsflora", "uplink": {"step": "fine"}}}, "method.uplink.step"),
        ({"method": {"name": "tsflora", "uplink": {"rate_bits": 0}}}, "method.uplink.rate_bits"),
        ({"method": {"name": "tsflora", "uplink": {"bits": 0}}}, "method.uplink.bits: 0"),
        ({"method": {"name": "tsflora", "uplink": {"levels": "gaussian"}}}, "stochastic"),
        ({"training": {"lr": float("nan")}}, "training.lr: nan will not do"),
        ({"training": {"lr": float("inf")}}, "training.lr: inf will not do"),
        ({"training": {"momentum": 0.9}}, "take optimizer sgd"),
        ({"data": {"source": "hub"}}, "source 'hub' needs data.path"),
        ({"model": 3}, "model: 3 will not do"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(values: dict, sentence: str) -> None:
    with pytest.raises(JobError) as error:
        make_job(values)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("model: [", "is not YAML"),
        ("- a\n- b\n", "holds a list: write sections"),
        ("model: 3\n", "model: 3 will not do"),
    ],
)
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "job.yaml").write_text(content)
    with pytest.raises(JobError, match=sentence):
        load_job(tmp_path / "job.yaml")


def test_an_empty_file_is_the_default_job(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("")
    assert load_job(tmp_path / "job.yaml") == Job()


def test_a_missing_file_and_a_bad_setting_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no file"):
        load_job(tmp_path / "none.yaml")
    with pytest.raises(JobError, match=r"is not section\.field=value"):
        load_job(None, ["rounds"])
    with pytest.raises(JobError, match="there is no such field"):
        load_job(None, ["training.round=3"])
