"""Passages out of the columns of a table: prompts with completions, conversations, plain texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cutlayer.data.source_settings import SourceSettings
from cutlayer.errors import DataError
from cutlayer.passage import Message, Passage, mended

MESSAGES, PROMPT, COMPLETION = "messages", "prompt", "completion"
TEXTS = ("text", "sentence")
EVERY = "text"
"""The class of every passage where the data has no labels."""


def passage_columns(
    data: SourceSettings, columns: Sequence[str], origin: str
) -> tuple[str, ...] | None:
    """The columns that make a passage: one of conversations or plain texts, or two of prompts and
    completions. None where the data is labelled.

    Raises DataError for columns that are named and not there, or that are there twice.
    """
    found = _named(data, columns)
    if data.kind == "labelled" or (data.kind == "auto" and found is None):
        return None
    if found is None:
        raise DataError(
            f"{origin} has neither {MESSAGES} nor {PROMPT} and {COMPLETION} nor "
            f"{' nor '.join(TEXTS)}: name its columns in data.input_column and "
            f"data.completion_column (available: {', '.join(columns)})"
        )
    for field, name in zip(("input_column", "completion_column"), found, strict=False):
        if list(columns).count(name) != 1:
            times = list(columns).count(name)
            raise DataError(
                f"data.{field}={name!r} is in {origin} {times} times: name a column that is there "
                f"once (available: {', '.join(columns)})"
            )
    return found


def _named(data: SourceSettings, columns: Sequence[str]) -> tuple[str, ...] | None:
    completion = data.completion_column
    if completion is not None:
        return data.input_column or PROMPT, completion
    if data.input_column in (None, MESSAGES) and MESSAGES in columns:
        return (MESSAGES,)
    if data.input_column in (None, PROMPT) and {PROMPT, COMPLETION} <= set(columns):
        return PROMPT, COMPLETION
    if data.kind != "passages":
        return None
    if data.input_column is not None:
        return (data.input_column,)
    return next(((name,) for name in TEXTS if name in columns), None)


def passage_of(columns: Sequence[str], values: Sequence[Any], name: str, separator: str) -> Passage:
    """The passage of one row. Raises DataError.

    columns: as `passage_columns` gives them; values: the row's values there. name: what errors call
    the row. separator: the text between a prompt and its completion.
    """
    if len(values) == 2:
        prompt = _text(values[0], name)
        return Passage(prompt and prompt + separator, _completion(values[1], name))
    (value,) = values
    if columns[0] != MESSAGES and not isinstance(value, list):
        return Passage(completion=_completion(value, name))
    return Passage(messages=_messages(value, name))


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    turns = list(value) if isinstance(value, list | tuple) else []
    if not turns or not all(isinstance(turn, dict) and "role" in turn for turn in turns):
        raise DataError(
            f"{name} holds no conversation: write a list of objects with a role and a content"
        )
    messages = [
        Message(_text(turn["role"], name), _text(turn.get("content"), name)) for turn in turns
    ]
    if messages[-1].role != "assistant" or not messages[-1].content.strip():
        raise DataError(
            f"{name} ends without words of the assistant, so there is nothing to learn: let a "
            "conversation end with an answer, or remove the row"
        )
    return tuple(messages)


def _completion(value: Any, name: str) -> str:
    text = _text("" if value is None else value, name)
    if not text.strip():
        raise DataError(
            f"{name} has an empty completion, so there is nothing to learn: fill it in or remove "
            "the row"
        )
    return text


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name} holds {value!r} where a text is due: correct it or remove the row")
    return mended(value)
