"""A score of one's own, named in the job, chooses the tokens that cross the cut."""

import sys
from pathlib import Path
from typing import cast

import pytest
import torch

from cutlayer import compare
from cutlayer.errors import CutlayerError, JobError, RefusedError
from cutlayer.job import dump_job, make_job
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.weights import load_model
from cutlayer.network.device.device_requests import read_job
from cutlayer.network.server.serve import ServeOptions, serve
from helpers import small_job
from tiny_models import CLASSES, inputs_of, random_adapter, settings, write

CUT = 2
SOURCE = """
import torch

from cutlayer.model.attention import cls_scores


def same_as_cls(q, k, heads, prefix, mask):
    return 3 * cls_scores(q, k, heads, prefix, mask)


def key_norm(q, k, heads, prefix, mask):
    return k[:, prefix:].norm(dim=-1)


def last(q, k, heads, prefix, mask):
    return torch.arange(1.0, k.shape[1] - prefix + 1).expand(len(k), -1)


def of_all_tokens(q, k, heads, prefix, mask):
    return k.norm(dim=-1)


def below_zero(q, k, heads, prefix, mask):
    return -k[:, prefix:].norm(dim=-1)


NUMBER = 3
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_scores.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_scores", raising=False)


@pytest.fixture(params=["vit", "bert"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> CutModel:
    path = write(tmp_path / "checkpoint", request.param)
    return load_model(settings(path, CUT), CLASSES, 0, dtype=torch.float64)


def scores_of(model: CutModel, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    route = [Segment(random_adapter(model, seed=1), 3)]
    found = model.device_forward(inputs_of(model, 3), CUT, route, score=f"own_scores:{name}")
    assert found.scores is not None
    return found.scores, found.mask


def test_scores_are_rows_of_sum_one_and_zero_at_padding(model: CutModel) -> None:
    scores, mask = scores_of(model, "key_norm")
    torch.testing.assert_close(scores.sum(1), torch.ones(3, dtype=torch.float64))
    if mask is not None:
        assert not mask.all()
        assert (scores[~mask[:, model.spec.prefix :]] == 0).all()
    assert len(scores[0].unique()) > 2


@pytest.mark.parametrize(("name", "why"), [("of_all_tokens", "shape"), ("below_zero", "below 0")])
def test_what_is_no_score_is_refused(model: CutModel, name: str, why: str) -> None:
    with pytest.raises(CutlayerError, match=f"own_scores:{name} gave .*{why}"):
        scores_of(model, name)


@pytest.mark.parametrize("score", ["own_scores:missing", "no_such_module:f", "own_scores:NUMBER"])
def test_a_name_without_a_function_is_refused_before_training(score: str, tmp_path: Path) -> None:
    job = small_job(f"method.tokens.score={score}", "method.tokens.keep=4", method="tsflora")
    with pytest.raises(JobError, match=r"method\.tokens\.score"):
        compare(
            job, methods=["own = tsflora tokens.keep=4 tokens.score=" + score], out=tmp_path / "out"
        )


CODE = pytest.mark.parametrize("setting", ["method.tokens.score", "method.uplink.levels"])


@CODE
def test_a_device_runs_no_code_that_a_server_names(setting: str, tmp_path: Path) -> None:
    (tmp_path / "harm.py").write_text("raise SystemExit('this code was run')")
    job = small_job("method.uplink.rounding=nearest", f"{setting}=harm:own", method="tsflora")
    with pytest.raises(RefusedError, match=f"'harm:own' as {setting}, and a device runs no code"):
        read_job(dump_job(job))
    assert "harm" not in sys.modules


@CODE
def test_a_server_says_so_before_it_opens(setting: str, tmp_path: Path) -> None:
    job = small_job("method.uplink.rounding=nearest", f"{setting}=own:mine", method="tsflora")
    nobody = cast(ServeOptions, None)
    with pytest.raises(JobError, match=f"{setting}: 'own:mine' is code"):
        serve(job, options=nobody, out=tmp_path / "run")


def test_a_misspelt_score_names_those_there_are() -> None:
    with pytest.raises(JobError, match="no score is called 'clz': take one of cls, received"):
        make_job({"method": {"name": "tsflora", "tokens": {"score": "clz"}}})


def test_a_run_with_ones_own_copy_of_a_score_is_the_run_with_that_score(tmp_path: Path) -> None:
    methods = [
        "tsflora tokens.keep=8",
        "own = tsflora tokens.keep=8 tokens.score=own_scores:same_as_cls",
        "last = tsflora tokens.keep=8 tokens.score=own_scores:last",
    ]
    job = small_job("training.rounds=1", "data.train_samples=80")
    published, own, last = compare(job, methods=methods, out=tmp_path / "out").results
    assert own.rows[0].loss == pytest.approx(published.rows[0].loss, rel=1e-4)
    assert last.rows[0].loss != pytest.approx(published.rows[0].loss, rel=1e-4)
