"""Samples without labels, to predict: image files, or text files of one text a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cutlayer.data import images
from cutlayer.errors import DataError
from cutlayer.resize import Fit


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files that `paths` name, and the images below the folders they name, in order. Raises
    DataError.
    """
    found = []
    for path in paths:
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.suffix.lower() in images.suffixes())
            inside = [p for p in below if p.is_file() and not _hidden(p.relative_to(path))]
            if not inside:
                raise DataError(f"FILES: {path} holds no images: name image files")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"FILES: there is no {path}: name files that exist")
    return found


def read_image(path: Path, fit: Fit | None) -> torch.Tensor:
    """One image file as uint8 [1, 1 or 3, H, W], as training images are held. Raises DataError.

    fit: how the model resizes and crops images.
    """
    items: list[images.Item] = [(str(path), lambda: path)]
    seen = images.look(items)
    return images.stack(items, images.held_size([seen], fit), seen.grey, seen.depths)


def read_texts(paths: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The texts of files of one text a line, and what errors call each; empty lines are skipped.

    Raises DataError.
    """
    names, texts = [], []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"FILES: {path} cannot be read ({error}): give UTF-8 text files of one text a line"
            ) from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                names.append(f"{path}:{number}")
                texts.append(line)
    if not texts:
        raise DataError("FILES: there is no text in any of them: write one text a line")
    return names, texts


def no_labels(count: int) -> np.ndarray:
    """Labels [count] that nothing reads, for a Dataset of samples without labels."""
    return np.zeros(count, dtype=np.int64)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
