"""The files below a folder: links are followed once, hidden and temporary files left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cutlayer.errors import DataError

_LEFT_BEHIND = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}
"""Files that operating systems leave in folders; they are skipped, as hidden files are."""


def files_below(folder: Path) -> list[Path]:
    """All visible files below a folder, by name; linked folders are followed once.

    Raises DataError for what cannot be read.
    """
    return list(Walk().files(folder))


@dataclass
class Walk:
    """Files below folders, links followed; a folder already seen under another name is skipped."""

    seen: dict[tuple[int, int], Path] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)

    def keep_for(self, folder: Path) -> None:
        """Mark a folder and all folders above it as seen, so that no link leads to them again."""
        for path in (folder, *folder.resolve().parents):
            place = os.stat(path)
            self.seen.setdefault((place.st_dev, place.st_ino), path)

    def files(self, folder: Path) -> Iterator[Path]:
        """The files below `folder`, by name. Raises DataError for a link to nothing."""
        try:
            place = os.stat(folder)
            inside = sorted(folder.iterdir())
        except OSError as error:
            raise DataError(
                f"{folder} cannot be read ({error.strerror}): make it readable"
            ) from None
        first = self.seen.setdefault((place.st_dev, place.st_ino), folder)
        if first != folder:
            self.again.append(f"{folder} is {first} once more")
            return
        for path in inside:
            if path.name.startswith("."):
                continue
            if path.name.lower() in _LEFT_BEHIND:
                self.passed.append(path.name)
            elif path.is_dir():
                yield from self.files(path)
            elif path.is_file():
                yield path
            else:
                raise DataError(f"{path} is not a file, or is a broken link: remove it or mend it")

    def notes(self) -> list[str]:
        """Sentences that name the links that were not followed and the files that were skipped."""
        notes = [f"not followed again: {text}" for text in self.again[:3]]
        if len(self.again) > 3:
            notes.append(f"and {len(self.again) - 3} more linked folders seen before")
        if self.passed:
            notes.append(f"passed over: {', '.join(sorted(set(self.passed)))}")
        return notes


def visible(folder: Path) -> list[Path]:
    """The entries of a folder, by name, without hidden files and those of operating systems."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in _LEFT_BEHIND
    )
