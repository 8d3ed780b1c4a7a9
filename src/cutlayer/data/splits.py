"""Which split (train or test) a file, folder or name stands for: one rule for every source.

A name is cut into words (at anything but letters, and at capitals), and words such as "data" or
"set" are dropped from its ends. Its first or else its last word then decides, in upper or lower
case: train, training; test, testing; val, valid, validation, dev, eval. The train split is trained
on, or else the files that name no split; the test split is tested on, or else val.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Generic, Literal, TypeVar

from cutlayer.errors import DataError

Split = Literal["train", "test", "val"]
Found = TypeVar("Found")

_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("test", "testing", "tests"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "val"),
    **dict.fromkeys(("eval", "evaluation"), "val"),
}
_FILLERS = {
    "data", "dataset", "set", "sets", "split", "image", "images", "img", "imgs", "file", "files",
    "sample", "samples", "folder", "dir", "part", "of", "new", "final", "full",
}  # fmt: skip


def split_of(name: str) -> Split | None:
    """The split that a name (without its suffix) stands for; None if it names none, or two."""
    words = [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    words = [re.sub(r"(set|data|split)$", "", word) or word for word in words]
    while words and words[-1] in _FILLERS:
        words.pop()
    while words and words[0] in _FILLERS:
        words.pop(0)
    ends = {_WORDS[word] for word in (words[:1] + words[-1:]) if word in _WORDS}
    return ends.pop() if len(ends) == 1 else None


def split_of_path(relative: PurePath) -> Split | None:
    """The split of a file, by its own name or else by the nearest folder whose name has one."""
    for name in (relative.stem, *reversed(relative.parts[:-1])):
        split = split_of(name)
        if split is not None:
            return split
    return None


@dataclass(frozen=True)
class Chosen(Generic[Found]):
    """Files or splits to train on and to test on (none: a part of the training data is held out).

    notes: what is not used, and why.
    """

    train: list[Found]
    test: list[Found]
    notes: tuple[str, ...] = ()


def choose(
    found: Mapping[Split | None, Sequence[Found]], origin: str, tested_elsewhere: bool
) -> Chosen[Found]:
    """Choose what to train on and what to test on.

    found: files or splits, by split; under None those that name no split. origin: what errors call
    the place where they were found. tested_elsewhere: whether the job names separate test data.
    Raises DataError where nothing says what to train on.
    """
    train = list(found.get("train") or found.get(None, []))
    if not train:
        splits = " and ".join(str(split) for split, some in found.items() if some)
        raise DataError(
            f"{origin} does not say what to train on, it holds only {splits}: put train into the "
            "name of the training data, or name that data itself in data.path"
        )
    test_split: Split | None = None
    if not tested_elsewhere:
        test_split = next((split for split in ("test", "val") if found.get(split)), None)
    notes = []
    for split in ("test", "val", None):
        some = found.get(split, [])
        if not some or split == test_split or (split is None and not found.get("train")):
            continue
        why = "names no split"
        if split is not None:
            why = f"the model is tested on {'data.test_path' if tested_elsewhere else 'test'}"
        notes.append(f"not used: {_listed(some)} ({why})")
    return Chosen(train, list(found.get(test_split, [])) if test_split else [], tuple(notes))


def _listed(some: Sequence[object]) -> str:
    names = [item.name if isinstance(item, PurePath) else str(item) for item in some]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
