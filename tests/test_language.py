"""Language models through the cut: data, targets, frames, runs, what they say, and bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import cutlayer
from cutlayer.data.dataset import Dataset
from cutlayer.data.sources import load
from cutlayer.errors import CutlayerError, DataError, FrameError, JobError, ModelError
from cutlayer.job import change_job
from cutlayer.model.bank import Segment
from cutlayer.model.families import describe
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.weights import load_model
from cutlayer.passage import Message, Passage
from cutlayer.record.folder import STATE_FILE
from cutlayer.settings.data import Data
from cutlayer.settings.method import Quantizer
from cutlayer.train.check import check
from cutlayer.train.evaluate import evaluate, through_cut
from cutlayer.train.language import NONE, Language
from cutlayer.wire.codec import decode_activations, encode_activations
from cutlayer.wire.frame import kind_of
from cutlayer.wire.messages import ActivationsMessage
from helpers import equal, language_job, largest_difference, small_job
from tiny_models import LANGUAGE, random_adapter, settings, write, write_language

WORDS = ("cat", "dog", "hen")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"prompt": f"name : {WORDS[i % 3]}", "completion": f"the {WORDS[i % 3]} is here"}
        for i in range(36)
    ]
    return write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ready(model: Path, *passages: Passage, max_tokens: int = 40) -> dict[str, torch.Tensor]:
    return Preprocessor(describe(settings(model, max_tokens=max_tokens)))(list(passages))


def said(model: Path, prepared: dict[str, torch.Tensor], row: int = 0) -> str:
    """The text of the tokens that are to be said."""
    tokenizer = Preprocessor(describe(settings(model))).tokenizer
    return tokenizer.decode(prepared["input_ids"][row][prepared["answers"][row].bool()])


# ---- data ----


TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
NAMED = {"input_column": "q", "completion_column": "r"}


@pytest.mark.parametrize(
    ("rows", "more", "expected"),
    [
        ([{"prompt": "a", "completion": "b"}], {}, Passage("a\n", "b")),
        ([{"prompt": "", "completion": "b"}], {}, Passage("", "b")),
        ([{"q": "a", "r": "b"}], NAMED, Passage("a\n", "b")),
        ([{"prompt": "a", "completion": "b"}], {"separator": " "}, Passage("a ", "b")),
        ([{"text": "a b"}], {"kind": "passages"}, Passage("", "a b")),
        (
            [{"messages": TURNS}],
            {},
            Passage(messages=(Message("user", "a"), Message("assistant", "b"))),
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", ["table", "parquet"])
def test_passages_are_read_from_their_columns(
    tmp_path: Path, rows: list[dict[str, Any]], more: dict[str, str], expected: Passage, source: str
) -> None:
    path = tmp_path / "train.jsonl"
    if source == "table":
        write_lines(path, rows * 5)
    else:
        import pyarrow as pa
        import pyarrow.parquet

        path = tmp_path / "train.parquet"
        pa.parquet.write_table(pa.Table.from_pylist(rows * 5), path)
    train, test = load(Data(source=source, path=str(path), **more), 0)  # type: ignore[arg-type]
    assert train.inputs == [expected] * 4
    assert test.inputs == [expected]
    assert train.classes == ("text",)


def test_labels_of_passages_say_by_what_devices_differ(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": WORDS[i % 3]} for i in range(30)]
    train, _ = load(Data(source="table", path=str(write_lines(tmp_path / "t.jsonl", rows))), 0)
    assert train.classes == WORDS
    assert np.bincount(train.labels).tolist() == [8, 8, 8]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": " "}, "line 1, has an empty completion"),
        ({"prompt": "a", "completion": None}, "has an empty completion"),
        ({"prompt": 3, "completion": "b"}, "holds 3 where a text is due"),
        ({"messages": "a"}, "holds no conversation"),
        ({"messages": [{"role": "user", "content": "a"}]}, "ends without words of the assistant"),
        ({"messages": []}, "holds no conversation"),
        ({"messages": [{"text": "a"}]}, "holds no conversation"),
    ],
)
def test_bad_passages_are_one_sentence(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write_lines(tmp_path / "t.jsonl", [row])
    with pytest.raises(DataError, match=message) as caught:
        load(Data(source="table", path=str(path)), 0)
    assert "\n" not in str(caught.value)


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [{"a": "x", "b": "y"}])
    with pytest.raises(DataError, match=r"name its columns in data\.input_column"):
        load(Data(source="table", path=str(path), kind="passages"), 0)
    with pytest.raises(DataError, match=r"data\.completion_column='c' is in .* 0 times"):
        load(Data(source="table", path=str(path), input_column="a", completion_column="c"), 0)


# ---- tokens ----


def test_a_completion_is_to_be_said_and_its_prompt_is_not(model: Path) -> None:
    found = ready(model, Passage("name\n", "a cat"), Passage("", "dog"))
    assert said(model, found) == "a cat</s>"
    assert said(model, found, 1) == "dog</s>"
    # 1 sign of a beginning, 5 letters before, 5 after, 1 sign of an end: padded to 16.
    assert found["attention_mask"].sum(1).tolist() == [12, 5]
    assert found["input_ids"].shape == (2, 16)


def test_in_a_conversation_all_that_the_assistant_says_is_to_be_said(model: Path) -> None:
    turns = (Message("user", "a"), Message("assistant", "b"))
    again = (Message("user", "c"), Message("assistant", "d"))
    assert said(model, ready(model, Passage(messages=turns), max_tokens=64)) == "b</s>"
    both = ready(model, Passage(messages=turns + again), max_tokens=64)
    assert said(model, both) == "b</s>d</s>"


def test_a_text_beyond_the_limit_is_cut(model: Path) -> None:
    found = ready(model, Passage("ab", "c" * 50), max_tokens=12)
    assert found["input_ids"].shape == (1, 12)
    assert said(model, found) == "c" * 9


def test_targets_are_the_tokens_that_follow(model: Path) -> None:
    found = ready(model, Passage("ab", "cd"), Passage("a", "b"))
    nobody = Dataset(["", ""], np.zeros(2, np.int64), ("text",))
    answers, every = (
        Language(50, 40, kind).targets(nobody, found)  # type: ignore[arg-type]
        for kind in ("answers", "all")
    )
    for row in range(2):
        ids, marks = found["input_ids"][row], found["answers"][row]
        length = int(found["attention_mask"][row].sum())
        first = int(marks.argmax())
        assert every[row, : length - 1].tolist() == ids[1:length].tolist()
        assert answers[row, first - 1 : length - 1].tolist() == ids[first:length].tolist()
        assert (every[row, length - 1 :] == NONE).all()
        assert (answers[row, : first - 1] == NONE).all()


def test_a_loss_is_the_mean_over_tokens_and_weighs_by_them() -> None:
    logits = torch.randn(3, 4, 7, dtype=torch.float64)
    goals = torch.tensor([[1, 2, NONE, NONE], [3, NONE, NONE, NONE], [4, 5, 6, 0]])
    task = Language(7, 4)
    parts = [goals[:2], goals[2:]]
    losses = task.losses(logits[task.learnt(parts)], parts)
    expected = [
        F.cross_entropy(logits[part].flatten(0, 1), goals[part].flatten(), ignore_index=NONE)
        for part in (slice(0, 2), slice(2, 3))
    ]
    torch.testing.assert_close(losses, torch.stack(expected))
    assert (task.weight(goals[:2]), task.weight(goals[2:])) == (3, 4)


def test_only_tokens_that_are_wanted_have_logits(model: Path) -> None:
    loaded = load_model(settings(model, max_tokens=40), 0, 0, dtype=torch.float64)
    found = ready(model, Passage("ab", "cd"), Passage("a", "bcd"), Passage("", "ab"))
    mask, wanted = found["attention_mask"].bool(), found["answers"].bool()
    adapters = [random_adapter(loaded, seed) for seed in (1, 2)]
    route = [Segment(adapters[0], 2), Segment(adapters[1], 1)]
    every = loaded.forward(found, route)
    hidden = loaded.device_forward(found, 1, route).hidden
    assert 0 < wanted.sum() < mask.sum()
    for some in (
        loaded.forward(found, route, wanted),
        loaded.server_forward(hidden, mask, 1, route, wanted),
    ):
        torch.testing.assert_close(some, every[wanted], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sflora", "fedlora"])
def test_a_compiled_language_model_trains_as_one_that_is_not(
    model: Path, table: Path, tmp_path: Path, method: str
) -> None:
    plain, compiled = (
        cutlayer.simulate(
            language_job(model, table, f"training.compile={given}", method=method, rounds=1),
            out=tmp_path / given,
        )
        for given in ("false", "true")
    )
    assert largest_difference(plain.adapter, compiled.adapter) < 1e-6


# ---- frames ----


@pytest.mark.parametrize("masked", [False, True])
def test_a_target_for_each_token_crosses_the_cut(masked: bool) -> None:
    task = Language(50, 6)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2]) if masked else None
    goal = torch.tensor([[1, NONE, 49, 3, 4, NONE], [0, 1, 2, NONE, NONE, NONE]])
    message = task.message(1, 2, 3, torch.randn(2, 6, 8), mask, goal)
    frame = encode_activations(message, Quantizer(bits=4, entropy="none"))
    found = decode_activations(frame)
    assert torch.equal(task.received(found), goal)
    bare = ActivationsMessage(1, 2, 3, message.hidden, mask, torch.zeros(2, dtype=torch.long), 51)
    plain = encode_activations(bare, Quantizer(bits=4, entropy="none"))
    # 51 values take 6 bits: of 10 or 12 tokens instead of 2 samples.
    assert len(frame) - len(plain) == -(-6 * (10 if masked else 12) // 8) - 2
    expected = cutlayer.activations_bytes(
        (2, 6, 8), Quantizer(bits=4, entropy="none"), 51, by_token=True
    )
    if not masked:
        assert abs(len(frame) - expected) < 16  # numbers in a header are counted at six digits


def test_targets_of_another_kind_are_refused() -> None:
    task = Language(50, 6)
    for labels, classes in ((torch.zeros(2, dtype=torch.long), 51), (torch.zeros(2, 6).long(), 9)):
        with pytest.raises(FrameError, match="targets that are not tokens of a vocabulary of 50"):
            task.received(ActivationsMessage(0, 0, 0, torch.zeros(2, 6, 8), None, labels, classes))


# ---- runs ----


@pytest.fixture(scope="module")
def run(model: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> cutlayer.Result:
    every = '["q_proj","v_proj","o_proj","up_proj","down_proj"]'
    # At a rate of 0.02 or more what the model says in the end hangs on the machine's last bits.
    changes = (f"model.lora.targets={every}", "training.rounds=6", "training.lr=0.01",
               "training.local_epochs=3", "method.uplink.bits=8")  # fmt: skip
    job = language_job(model, table, *changes)
    return cutlayer.simulate(job, out=tmp_path_factory.mktemp("runs") / "run")


def test_a_run_learns_and_records_perplexity(run: cutlayer.Result) -> None:
    first, last = run.rows[0], run.rows[-1]
    assert last.test_loss is not None
    assert last.perplexity == pytest.approx(np.exp(last.test_loss))
    assert first.perplexity is not None
    assert last.perplexity < first.perplexity
    assert last.accuracy is not None
    assert last.accuracy > 0.8
    assert last.accuracy_through_cut is not None
    assert "perplexity" in run.accuracy_said
    served = cutlayer.evaluate(run.folder, through_cut=True)
    assert served.perplexity == pytest.approx(last.perplexity_through_cut)
    assert last.perplexity_through_cut != last.perplexity
    found = cutlayer.evaluate(run.folder)
    assert found.perplexity == pytest.approx(last.perplexity)
    assert found.sentences()[0].startswith("perplexity")


def test_without_compression_the_cut_trains_what_the_whole_model_does(
    model: Path, tmp_path: Path
) -> None:
    """All completions take as many tokens, so that tokens and samples weigh alike."""
    rows = [{"prompt": f"name : {word}", "completion": f"the {word} is here"} for word in WORDS * 8]
    table = write_lines(tmp_path / "t.jsonl", rows)
    split, whole = (
        cutlayer.simulate(
            language_job(model, table, "training.rounds=1", method=method), out=tmp_path / method
        )
        for method in ("sflora", "fedlora")
    )
    assert largest_difference(split.adapter, whole.adapter) < 1e-5


OWN = [{"prompt": f"name : {word}", "completion": f"a {word} was here"} for word in WORDS * 4]
KNOWN = "method.uplink={codec: klt, rate_bits: 1, fit: calibration, known_tokens: true}"


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        (("training.rounds=1", "method.uplink.bits=4"), "sflora"),
        ((KNOWN, "data.calibration=own.jsonl"), "lean"),
    ],
    ids=["4 bits", "known tokens"],
)
def test_language_trains_over_a_network_as_in_a_simulation(
    model: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: tuple[str, ...],
    method: str,
) -> None:
    pytest.importorskip("grpc")
    from fleet_helpers import served_to_all

    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "own.jsonl", OWN)
    job = language_job(model, table, *changes, "training.pool=1", method=method)
    alone = cutlayer.simulate(job, out=tmp_path / "alone")
    together = served_to_all(job, tmp_path / "net", 2)
    assert equal(alone.adapter, together.adapter)
    assert [row.traffic for row in alone.rows] == [row.traffic for row in together.rows]


def test_tokens_that_labels_name_are_coded_by_a_basis_of_their_own_and_a_run_goes_on_with_it(
    model: Path, table: Path, tmp_path: Path
) -> None:
    own = write_lines(tmp_path / "own.jsonl", OWN)
    changes = (KNOWN, "method.uplink.reuse=false", f"data.calibration={own}")
    job = language_job(model, table, *changes, method="lean", rounds=3)
    whole = cutlayer.simulate(job, out=tmp_path / "whole")
    basis = load_file(whole.folder / STATE_FILE)["coding/basis.1"]
    assert kind_of(basis.numpy().tobytes()) == "token basis"
    cutlayer.simulate(change_job(job, ["training.rounds=2"]), out=tmp_path / "part")
    resumed = cutlayer.resume(tmp_path / "part", rounds=3)
    assert equal(whole.adapter, resumed.adapter)
    assert [row.traffic for row in whole.rows] == [row.traffic for row in resumed.rows]


def test_a_run_goes_on_from_a_prompt_as_its_merged_checkpoint_does(
    run: cutlayer.Result, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = cutlayer.generate(run.folder, prompt="name : dog", most=24)
    assert found.text.endswith("is here")
    assert found.whole
    written = cutlayer.export(run.folder, out=tmp_path / "merged", merged=True)
    assert "AutoModelForCausalLM" in written.loads_by
    plain = AutoModelForCausalLM.from_pretrained(written.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(written.folder)
    ids = tokenizer("name : dog\n", return_tensors="pt")["input_ids"]
    text = plain.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[0]
    assert tokenizer.decode(text[ids.shape[1] :], skip_special_tokens=True) == found.text
    assert not cutlayer.generate(run.folder, prompt="name : dog", most=2).whole


@pytest.mark.parametrize("family", LANGUAGE)
def test_keys_and_values_that_are_kept_change_nothing(tmp_path: Path, family: str) -> None:
    loaded = load_model(settings(write(tmp_path, family), max_tokens=40), 0, 0, dtype=torch.float64)
    route = [Segment(random_adapter(loaded, 1), 3)]
    text = torch.randint(1, 60, (3, 5), generator=torch.Generator().manual_seed(0))
    past, given = loaded.new_past(), text
    with torch.no_grad():
        for _ in range(8):
            kept = loaded.go_on(given, past, route)
            whole = loaded({"input_ids": text, "attention_mask": torch.ones_like(text)}, route)
            torch.testing.assert_close(kept, whole[:, -1], rtol=1e-9, atol=1e-9)
            given = kept.argmax(1)[:, None]
            text = torch.cat([text, given], 1)


def test_what_a_run_says_is_scored_against_every_reference(
    run: cutlayer.Result, tmp_path: Path
) -> None:
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    found = cutlayer.evaluate(run.folder, texts=2, out=tmp_path / "figures.json")
    texts = found.texts
    assert texts is not None
    assert texts.prompts == 2
    assert texts.references >= 2
    assert texts.exact == np.mean([said == reference for _, said, reference in texts.said])
    assert 0 < texts.bleu <= 100
    # Three words of four are the same in every sentence.
    assert 0.75 <= texts.rouge_l <= 1
    assert any(line.startswith("BLEU") for line in found.sentences())
    assert json.loads((tmp_path / "figures.json").read_text())["texts"]["bleu"] == texts.bleu
    rows = [
        {"prompt": "name : dog", "completion": answer} for answer in ("the fox barks", "no dog")
    ]
    other = cutlayer.evaluate(run.folder, data=write_lines(tmp_path / "o.jsonl", rows), texts=9)
    assert other.texts is not None
    assert (other.texts.prompts, other.texts.references) == (1, 2)
    assert other.texts.exact == 0
    assert 0 < other.texts.rouge_l < 1
    plain = write_lines(tmp_path / "p.jsonl", [{"text": "the dog is here"}])
    with pytest.raises(CutlayerError):
        cutlayer.evaluate(run.folder, data=plain, texts=1)


def test_what_a_run_cannot_say_is_one_sentence(run: cutlayer.Result) -> None:
    with pytest.raises(CutlayerError, match="leaves none of 40"):
        cutlayer.generate(run.folder, prompt="a" * 60)
    assert cutlayer.generate(run.folder, prompt="\udcff", most=1).tokens == 1  # a byte of no text
    with pytest.raises(CutlayerError, match="is empty"):
        cutlayer.generate(run.folder, prompt="")
    with pytest.raises(CutlayerError, match="cutlayer generate"):
        cutlayer.predict(run.folder, files="x.txt")


# ---- bad input ----


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (("model.max_tokens=8",), ModelError, r"model\.max_tokens: the prompt 'name : .*' takes"),
        (("data.kind=labelled",), DataError, "none of the columns"),
        (("model.cut=3",), JobError, r"model\.cut: 3 leaves the server nothing to train"),
        (("model.lora.side=device",), JobError, r"model\.lora\.side: 'device' leaves the server"),
        (("method.tokens.keep=4",), JobError, "needs the position of each token in its blocks"),
        (("training.class_weights=[1,2]",), JobError, "predicts no classes"),
        (("method.train=full",), ModelError, r"method\.train: 'full' cannot train"),
        (("model.max_tokens=80",), ModelError, r"model\.max_tokens: 80 is more than the 64"),
        ((KNOWN, "model.tail=1"), JobError, r"model\.tail keeps labels on the devices"),
        ((KNOWN, "method.uplink.weighting=true"), JobError, "weighs tokens by position"),
        (("method.uplink.known_tokens=true",), JobError, "codec quantize does not read it"),
        ((KNOWN, "method.uplink.fit=devices"), JobError, "which tokens the others' texts hold"),
        (("method.downlink={codec: klt, known_tokens: true}",), JobError, "has labels beside it"),
    ],
)
def test_settings_that_language_does_not_take_are_one_sentence(
    model: Path,
    table: Path,
    tmp_path: Path,
    changes: tuple[str, ...],
    error: type[CutlayerError],
    message: str,
) -> None:
    with pytest.raises(error, match=message) as caught:
        cutlayer.simulate(language_job(model, table, *changes), out=tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_data_and_model_must_be_of_one_kind(model: Path, table: Path, tmp_path: Path) -> None:
    rows = [{"text": "a b", "label": WORDS[i % 2]} for i in range(20)]
    labelled = write_lines(tmp_path / "labelled.jsonl", rows)
    with pytest.raises(ModelError, match=r"set data\.kind to passages"):
        cutlayer.simulate(language_job(model, labelled), out=tmp_path / "run")
    job = language_job(model, table)
    pictures = job.model_copy(update={"model": job.model.model_copy(update={"path": "demo"})})
    with pytest.raises(CutlayerError):
        cutlayer.simulate(pictures, out=tmp_path / "run")


def test_labels_of_images_name_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="labels name tokens of language models alone"):
        cutlayer.simulate(small_job(KNOWN, method="lean"), out=tmp_path / "run")


def test_a_tokenizer_without_a_template_cannot_chat(model: Path, tmp_path: Path) -> None:
    import shutil

    bare = shutil.copytree(model, tmp_path / "bare")
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        file = bare / name
        if name.endswith("json"):
            values = json.loads(file.read_text())
            file.write_text(json.dumps({k: v for k, v in values.items() if k != "chat_template"}))
        else:
            file.unlink(missing_ok=True)
    turns = (Message("user", "a"), Message("assistant", "b"))
    with pytest.raises(ModelError, match="has no chat template"):
        ready(bare, Passage(messages=turns))


def test_a_template_that_refuses_a_conversation_is_one_sentence(
    model: Path, tmp_path: Path
) -> None:
    import shutil

    strict = shutil.copytree(model, tmp_path / "strict")
    (strict / "chat_template.jinja").write_text("{{ raise_exception('no system here') }}")
    turns = (Message("system", "a"), Message("assistant", "b"))
    with pytest.raises(ModelError, match=r"refuses a conversation \(no system here\)"):
        ready(strict, Passage(messages=turns))


def test_a_text_without_a_token_to_be_said_is_refused(model: Path, tmp_path: Path) -> None:
    import shutil

    mute = shutil.copytree(model, tmp_path / "mute")
    (mute / "chat_template.jinja").write_text("{{ messages[0].content }}")
    turns = (Message("user", "a"), Message("assistant", "the cat"))
    with pytest.raises(ModelError, match="leaves no token to be said of 'the cat'"):
        ready(mute, Passage(messages=turns))
    bare = shutil.copytree(model, tmp_path / "bare")
    for name, left_out in (
        ("tokenizer_config.json", ("eos_token", "bos_token")),
        ("tokenizer.json", ("post_processor",)),
    ):
        values = json.loads((bare / name).read_text())
        kept = {key: None if key == "post_processor" else value for key, value in values.items()
                if key not in left_out or key == "post_processor"}  # fmt: skip
        (bare / name).write_text(json.dumps(kept))
    assert ready(bare, Passage("", "ab"))["answers"].sum() == 2
    with pytest.raises(ModelError, match="leaves no token to be said of 'a'"):
        ready(bare, Passage("", "a"))


METHODS = {
    "tsflora": r"method\.tokens\.keep: .* needs the position of each token in its blocks",
    "st-sflora": r"method\.tokens\.keep: .* needs the position of each token in its blocks",
    "genfv": r"generators draw images|generated",
} | dict.fromkeys(
    ("split-lora", "fedlora", "sflora", "lean", "st-sflora-full", "local-lora", "centralized",
     "asfl", "asfv", "sflam")
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_methods_take_a_language_model_or_say_why_not(
    model: Path, table: Path, method: str
) -> None:
    job = language_job(model, table, "world={}", method=method)
    spec = describe(job.model)
    message = METHODS[method]
    if message is None:
        check(job, spec)
    else:
        with pytest.raises(JobError, match=message):
            check(job, spec)
    if method.endswith("sflora") and message:  # bits alone
        check(
            change_job(job, ["method.tokens.keep=null", "method.allocation.solver=equal"]),
            spec,
        )


def test_a_vocabulary_beyond_the_checkpoint_is_refused(tmp_path: Path) -> None:
    small = write_language(tmp_path, vocab_size=20)
    with pytest.raises(ModelError, match="embeds 20 tokens"):
        ready(small, Passage("", "xyz"))


def test_through_the_cut_the_same_targets_are_scored(run: cutlayer.Result) -> None:
    from cutlayer.inference.trained import load_trained
    from cutlayer.train.server_coding import ServerCoding

    trained = load_trained(run.folder)
    test = load(run.job.data, run.job.seed)[1]
    decision = next(iter(run.rows[-1].decisions.values()))
    served = through_cut(
        run.job,
        trained.task,
        decision,
        trained.model,
        trained.preprocess,
        trained.adapter,
        ServerCoding(run.job, trained.model.spec),
    )
    found = evaluate(trained.task, served, test)
    assert found.accuracy == pytest.approx(run.rows[-1].accuracy_through_cut)


def test_lean_names_passages_too_and_codes_the_rest(
    model: Path, table: Path, tmp_path: Path
) -> None:
    changes = ("method.uplink.rate_bits=2", "training.rounds=3", "training.local_epochs=2")
    job = language_job(model, table, *changes, method="lean")
    lean = cutlayer.simulate(job, out=tmp_path / "run")
    first, _, last = lean.rows
    assert not any(map(sum, last.computed.values()))
    assert last.up_bytes < first.up_bytes / 5
    assert last.perplexity is not None
    assert last.accuracy_through_cut is not None
    assert {t[4] for t in first.traffic.values()} != {0}  # the basis
