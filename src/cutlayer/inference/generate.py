"""The verb `generate`: a run's language model continues a prompt, as one unsplit model."""

from dataclasses import dataclass
from pathlib import Path

from cutlayer.errors import DataError, JobError
from cutlayer.inference.go_on import go_on
from cutlayer.inference.trained import Trained, load_trained
from cutlayer.model.passage_tokens import asked, prompt_tokens
from cutlayer.passage import Message, mended


@dataclass(frozen=True)
class Continuation:
    """The text that the model added to a prompt. tokens: how many it has. whole: whether the model
    ended the text itself."""

    prompt: str
    text: str
    tokens: int
    whole: bool


def generate(
    run: str | Path,
    *,
    prompt: str,
    most: int = 64,
    chat: bool = False,
    device: int | None = None,
) -> Continuation:
    """Let the language model of the run in folder `run` continue `prompt`.

    The likeliest token is taken each time, so that the same prompt gives the same text. most: the
    most tokens to add, within the run's model.max_tokens. chat: format the prompt as a user's turn
    by the tokenizer's chat template; else data.separator is put behind it, as in training.
    device: see `evaluate`. Raises RunError, JobError, DataError or ModelError, each with one
    sentence.
    """
    trained = load_trained(run, device)
    spec, tokenizer = trained.model.spec, trained.preprocess.tokenizer
    if not spec.parts.language:
        raise JobError(
            f"RUN: {spec.path} predicts classes and says no text: take cutlayer predict, or a run "
            "of a language model"
        )
    if not prompt:
        raise DataError("--prompt: is empty: give some words to continue")
    if chat:
        # An argument of a command line may hold any bytes.
        text = asked([Message("user", mended(prompt))], tokenizer, spec)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = prompt_tokens(prompt + trained.job.data.separator, tokenizer)
    if len(ids) >= spec.max_tokens:
        raise DataError(
            f"--prompt: takes {len(ids)} tokens, which leaves none of {spec.max_tokens} "
            "(model.max_tokens of the run) to say: shorten it"
        )
    ends = ends_of(trained)
    (said,) = go_on(trained.model, trained.adapter, [ids], most, ends)
    whole = bool(said) and said[-1] in ends
    text = tokenizer.decode(said[:-1] if whole else said)
    return Continuation(prompt, text, len(said), whole)


def ends_of(trained: Trained) -> set[int]:
    """The tokens that end a text: the tokenizer's end-of-text token, if it has one."""
    end = trained.preprocess.tokenizer.eos_token_id
    return set() if end is None else {end}
