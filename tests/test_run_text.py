"""Texts of unequal length through the cut: padding is never ranked, merged or sent."""

from pathlib import Path

import pytest

import tiny_models
from cutlayer import compare, simulate
from cutlayer.job import make_job
from helpers import equal

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "fine", "bad", "poor", "film", "a")
TEXTS = {"praise": "a good film", "blame": "a bad poor film poor", "more praise": "fine good"}


@pytest.fixture
def job_values(tmp_path: Path) -> dict:
    model = tiny_models.write(tmp_path / "bert", "bert")
    (model / "vocab.txt").write_text("\n".join(WORDS))
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    lines = ["text,label", *(f"{text},{label}" for label, text in TEXTS.items() for _ in range(12))]
    (tmp_path / "texts.csv").write_text("\n".join(lines))
    return {
        "model": {"path": str(model), "max_tokens": 10, "cut": 2},
        "data": {"source": "table", "path": str(tmp_path / "texts.csv")},
        "devices": {"count": 2},
        "training": {"rounds": 2, "batch_size": 4, "lr": 0.01, "pool": 1},
    }


@pytest.mark.parametrize("score", ["cls", "received"])
def test_a_text_encoder_trains_through_the_cut(
    job_values: dict, tmp_path: Path, score: str
) -> None:
    methods = ["sflora", "fedlora", f"few = tsflora tokens.keep=2 tokens.score={score}"]
    comparison = compare(make_job(job_values), methods=methods, out=tmp_path / "out")
    sflora, fedlora, few = comparison.results
    assert sflora.rows[0].loss == pytest.approx(fedlora.rows[0].loss, rel=1e-4)
    assert few.rows[0].traffic[0][0] < sflora.rows[0].traffic[0][0]
    assert all(result.rows[1].loss < result.rows[0].loss for result in comparison.results)


def test_texts_train_over_a_network_as_in_a_simulation(
    job_values: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    from fleet_helpers import served_to_all

    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    job = make_job({**job_values, "method": {"name": "tsflora", "tokens": {"keep": 2}}})
    alone = simulate(job, out=tmp_path / "alone")
    together = served_to_all(job, tmp_path / "net", 2)
    assert equal(alone.adapter, together.adapter)
    assert [row.traffic for row in alone.rows] == [row.traffic for row in together.rows]
