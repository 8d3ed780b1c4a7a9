"""Turns passages into tokens for a language model: some are given, others the model is to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cutlayer.errors import ModelError
from cutlayer.model.spec import ModelSpec
from cutlayer.passage import Message, Passage, mended

BUCKET = 8
"""Batches are padded to a multiple of this many tokens, so that devices' batches often have equal
lengths."""

Ids = list[int]


def padded(passages: Sequence[Passage], tokenizer: Any, spec: ModelSpec) -> dict[str, Tensor]:
    """{"input_ids", "attention_mask", "answers": int64 [B,T]}, padded behind the text.

    answers: 1 where a token is to be said. A text beyond max_tokens is cut. Raises ModelError for
    a prompt that leaves no room for its completion, for a completion without a token that is to be
    said, and for a conversation without a template.
    """
    rows = [_tokens(passage, tokenizer, spec) for passage in passages]
    longest = max(len(given) + len(said) for given, said in rows)
    length = min(-(-longest // BUCKET) * BUCKET, spec.max_tokens)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id, dtype=torch.int64)
    mask, answers = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (given, said) in enumerate(rows):
        both = (given + [token for token, _ in said])[:length]
        ids[row, : len(both)] = torch.tensor(both)
        mask[row, : len(both)] = 1
        marks = [int(answer) for _, answer in said][: length - len(given)]
        answers[row, len(given) : len(both)] = torch.tensor(marks)
    return {"input_ids": ids, "attention_mask": mask, "answers": answers}


def prompt_tokens(text: str, tokenizer: Any) -> Ids:
    """The tokens of what is given, with the sign of a beginning where the tokenizer has one."""
    ids: Ids = tokenizer(mended(text))["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def asked(messages: Sequence[Message], tokenizer: Any, spec: ModelSpec) -> str:
    """A conversation as a text that the assistant is to continue. Raises ModelError."""
    return _rendered(messages, tokenizer, spec, ask=True)


def _tokens(
    passage: Passage, tokenizer: Any, spec: ModelSpec
) -> tuple[Ids, list[tuple[int, bool]]]:
    """The tokens before the first that the model is to say, and the rest: (token, to be said)."""
    if passage.messages:
        given, said = _conversation(passage.messages, tokenizer, spec)
    else:
        given = prompt_tokens(passage.prompt, tokenizer)
        ids: Ids = tokenizer(passage.completion, add_special_tokens=False)["input_ids"]
        if tokenizer.eos_token_id is not None:
            ids = [*ids, tokenizer.eos_token_id]
        said = [(token, True) for token in ids]
    if len(given) >= spec.max_tokens:
        start = passage.messages[0].content if passage.messages else passage.prompt
        raise ModelError(
            f"model.max_tokens: the prompt {_short(start)} takes {len(given)} tokens, which leaves "
            f"none of {spec.max_tokens} for its completion: take a larger model.max_tokens, or "
            "shorten the prompt"
        )
    # The first token of a text follows none, and is nothing to be said.
    if not any(answer for _, answer in (said if given else said[1:])):
        start = passage.messages[-1].content if passage.messages else passage.completion
        raise ModelError(
            f"data: the tokenizer of {spec.path}, or its chat template, leaves no token to be said "
            f"of {_short(start)}: remove the row, or give a tokenizer with signs of a beginning "
            "and an end, or a template that writes what the assistant says"
        )
    return given, said


def _conversation(
    messages: Sequence[Message], tokenizer: Any, spec: ModelSpec
) -> tuple[Ids, list[tuple[int, bool]]]:
    """A conversation by the tokenizer's template; the model is to say the assistant's words."""
    whole = _rendered(messages, tokenizer, spec)
    pieces: list[tuple[str, bool]] = []
    end = 0
    for number, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = _rendered(messages[:number], tokenizer, spec, ask=True)
        after = _rendered(messages[: number + 1], tokenizer, spec)
        if not (whole.startswith(before) and whole.startswith(after) and end <= len(before)):
            raise ModelError(
                f"data: the chat template of {spec.path} writes earlier turns anew when a "
                f"conversation goes on, as at {_short(message.content)}: give each answer a row of "
                "its own"
            )
        pieces += [(whole[end : len(before)], False), (whole[len(before) : len(after)], True)]
        end = len(after)
    marked = [
        (token, answer)
        for text, answer in pieces
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]
    ]
    first = next((place for place, (_, answer) in enumerate(marked) if answer), len(marked))
    return [token for token, _ in marked[:first]], marked[first:]


def _rendered(
    messages: Sequence[Message], tokenizer: Any, spec: ModelSpec, ask: bool = False
) -> str:
    if not tokenizer.chat_template:
        raise ModelError(
            f"model.path: the tokenizer of {spec.path} has no chat template, which conversations "
            "need: take a model that was trained to chat, or prompts and completions"
        )
    turns = [{"role": turn.role, "content": turn.content} for turn in messages]
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask)
    except Exception as error:  # a template raises what it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"data: the chat template of {spec.path} refuses a conversation ({reason}): correct "
            "its roles and their order, or the template"
        ) from None
    return text


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
