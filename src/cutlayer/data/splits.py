"""Which split (train or test) a file, folder or name stands for: one rule for every source.

A name is cut into words (at anything but letters, and at capitals), words such as "data" or "set"
are dropped from its ends, and its first or else its last word decides, in any case: train,
training; test, testing; val, valid, validation, dev, eval. Trained on is train, or else what names
no split; tested on is test, or else val.
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
    """The split that a name tells, without its suffix; None for none, or for two at once."""
    words = [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    words = [re.sub(r"(set|data|split)$", "", word) or word for word in words]
    while words and words[-1] in _FILLERS:
        words.pop()
    while words and words[0] in _FILLERS:
        words.pop(0)
    ends = {_WORDS[word] for word in (words[:1] + words[-1:]) if word in _WORDS}
    return ends.pop() if len(ends) == 1 else None


def split_of_path(relative: PurePath) -> Split | None:
    """The split of a file by its own name, or else by the nearest folder that tells one."""
    for name in (relative.stem, *reversed(relative.parts[:-1])):
        split = split_of(name)
        if split is not None:
            return split
    return None


@dataclass(frozen=True)
class Chosen(Generic[Found]):
    """What is trained on, what is tested on (None: a part held out of the training data), and what
    is left unused.
    """

    train: list[Found]
    test: list[Found]
    notes: tuple[str, ...] = ()


def choose(
    found: Mapping[Split | None, Sequence[Found]], origin: str, tested_elsewhere: bool
) -> Chosen[Found]:
    """Choose among things found by split; None: those that name no split.

    origin: what to call where they were found. tested_elsewhere: the job names its test data.
    Raises DataError where nothing says what to train on.
    """
    train = list(found.get("train") or found.get(None, []))
    if not train:
        splits = " and ".join(str(split) for split, some in found.items() if some)
        raise DataError(
            f"{origin} does not tell what to train on, it holds {splits} only: put train into the "
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
            why = "data.test_path is tested on" if tested_elsewhere else "test is tested on"
        notes.append(f"not used: {_listed(some)} ({why})")
    return Chosen(train, list(found.get(test_split, [])) if test_split else [], tuple(notes))


def _listed(some: Sequence[object]) -> str:
    names = [item.name if isinstance(item, PurePath) else str(item) for item in some]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
