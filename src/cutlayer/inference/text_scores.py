"""Compares a language model's answers to prompts with those in the data: BLEU, ROUGE-L, equal.

BLEU: sacrebleu's, over the whole test set (arXiv 1804.08771), 0 to 100. ROUGE-L: F1 of the longest
common subsequence of words, of each answer with its nearest reference (rouge-score, with stems).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cutlayer.data.dataset import Dataset
from cutlayer.errors import DataError, RunError
from cutlayer.inference.generate import ends_of
from cutlayer.inference.go_on import go_on
from cutlayer.inference.trained import Trained
from cutlayer.model.passage_tokens import asked, prompt_tokens
from cutlayer.passage import Passage


@dataclass(frozen=True)
class TextScores:
    """Scores of a model's answers to some prompts.

    bleu: 0 to 100. rouge_l: mean over prompts, 0 to 1. exact: share of answers that are equal to a
    reference. said: the first prompts, each with the model's answer and a reference.
    """

    prompts: int
    references: int
    bleu: float
    rouge_l: float
    exact: float
    said: tuple[tuple[str, str, str], ...]


def score_texts(trained: Trained, data: Dataset, most: int) -> TextScores:
    """Let the model answer the first `most` different prompts of `data`, and score its answers.

    Every completion of a prompt in the data is a reference. Raises RunError if the model is not a
    language model or if sacrebleu or rouge-score is missing, DataError for data without prompts.
    """
    if not trained.model.spec.parts.language:
        raise RunError(
            f"--texts: {trained.model.spec.path} is not a language model and says no text: leave "
            "it out"
        )
    bleu, rouge = _bleu(), _rouge()
    asked_for = _references(trained, data, most)
    tokenizer, spec = trained.preprocess.tokenizer, trained.model.spec
    prompts = [list(prompt) for prompt in asked_for]
    ends = ends_of(trained)
    found = go_on(trained.model, trained.adapter, prompts, spec.max_tokens, ends)
    answers = [
        tokenizer.decode(
            [one for one in tokens if one not in ends], skip_special_tokens=True
        ).strip()
        for tokens in found
    ]
    references = list(asked_for.values())
    longest = max(map(len, references))
    streams = [[one[i] if i < len(one) else None for one in references] for i in range(longest)]
    shared = [
        max(rouge.score(reference, answer)["rougeL"].fmeasure for reference in own)
        for answer, own in zip(answers, references, strict=True)
    ]
    exact = [answer in own for answer, own in zip(answers, references, strict=True)]
    shown = zip(prompts, answers, references, strict=True)
    return TextScores(
        len(prompts),
        sum(map(len, references)),
        min(100.0, float(bleu(answers, streams).score)),  # its sums may round beyond 100
        float(np.mean(shared)),
        float(np.mean(exact)),
        tuple(
            (tokenizer.decode(prompt, skip_special_tokens=True).strip(), answer, own[0])
            for prompt, answer, own in list(shown)[:3]
        ),
    )


def _references(trained: Trained, data: Dataset, most: int) -> dict[tuple[int, ...], list[str]]:
    """The data's completions of each of the first prompts, by the prompt's tokens."""
    spec, tokenizer = trained.model.spec, trained.preprocess.tokenizer
    found: dict[tuple[int, ...], list[str]] = {}
    for passage in data.inputs:
        assert isinstance(passage, Passage)
        if passage.messages:
            text = asked(passage.messages[:-1], tokenizer, spec)
            ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
            reference = passage.messages[-1].content
        elif passage.prompt:
            ids, reference = tuple(prompt_tokens(passage.prompt, tokenizer)), passage.completion
        else:
            raise DataError(
                "--texts: the data are plain texts without prompts: leave it out, or give columns "
                "prompt and completion, or messages"
            )
        if ids in found or (len(found) < most and len(ids) < spec.max_tokens):
            found.setdefault(ids, []).append(reference.strip())
    if not found:
        raise DataError(
            f"--texts: every prompt takes {spec.max_tokens} tokens or more (model.max_tokens of "
            "the run), which leaves none to say: give shorter ones"
        )
    return found


def _bleu() -> Any:
    try:
        from sacrebleu import corpus_bleu
    except ImportError:
        raise _missing("sacrebleu") from None
    return corpus_bleu


def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise _missing("rouge-score") from None
    return RougeScorer(["rougeL"], use_stemmer=True)


def _missing(package: str) -> RunError:
    return RunError(
        f"--texts: {package} is not installed: pip install 'cutlayer[metrics]', or leave it out"
    )
