"""Images in folders, one folder a class, with or without train/test folders above or below."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path

from cutlayer.data import images
from cutlayer.data.below import Walk, files_below, visible
from cutlayer.data.rows import Rows
from cutlayer.data.splits import Split, choose, split_of
from cutlayer.errors import DataError


def read(path: Path, test_path: Path | None) -> tuple[Rows, Rows | None]:
    """Training and test images of a folder. Raises DataError."""
    if not path.is_dir():
        raise DataError(f"data.path={str(path)!r} is a file: name a folder of class folders")
    roots, test_roots, notes = _splits_of(path, test_path is not None)
    if test_path is not None:
        test_roots = [test_path]
    inner = test_path is not None or bool(test_roots)
    train, test = _class_folders(roots, notes, inner)
    if test_roots:
        test, _ = _class_folders(test_roots, (), tested_elsewhere=True)
    return train, test


def _splits_of(
    root: Path, tested_elsewhere: bool
) -> tuple[list[Path], list[Path], tuple[str, ...]]:
    """The folders that hold class folders to train on, those to test on, and notes on the rest."""
    beside = visible(root)
    folders = [folder for folder in beside if folder.is_dir()]
    found: dict[Split | None, list[Path]] = {}
    for folder in folders:
        # A class may be called "train": its folder then holds images, not class folders.
        holds_classes = any(below.is_dir() for below in visible(folder))
        found.setdefault(split_of(folder.name) if holds_classes else None, []).append(folder)
    if not set(found) - {None}:
        if len(folders) == 1 and len(beside) == 1 and any(x.is_dir() for x in visible(folders[0])):
            return _splits_of(folders[0], tested_elsewhere)
        named = [split_of(folder.name) for folder in folders]
        if len(set(named) - {None}) > 1 or (named and None not in named and len(named) > 1):
            raise DataError(
                f"{root} holds the folders {', '.join(f.name for f in folders)} with images in "
                "them: each class needs a folder of its own in each split, as train/cat/1.png"
            )
        return [root], [], ()
    others = found.get(None, [])
    if "train" not in found or set(found) == {"train", None}:
        pictured = [folder for folder in others if _has_images(folder)]
        if pictured:
            raise DataError(
                f"{root} holds {_splits_in(found)} with folders in it beside {pictured[0].name} "
                "with images: if it is a split, name its folder in data.path (and data.test_path); "
                "if it is a class, rename it"
            )
        found.pop(None, None)
    chosen = choose(found, f"data.path={str(root)!r}", tested_elsewhere)
    notes = list(chosen.notes)
    if others and None not in found:
        notes.append(f"not used: {', '.join(f.name for f in others)} (names no split)")
    files = [file.name for file in beside if not file.is_dir()]
    if files:
        notes.append(f"not used: {', '.join(files[:3])} beside the splits")
    return [_inner(f) for f in chosen.train], [_inner(f) for f in chosen.test], tuple(notes)


def _splits_in(found: Mapping[Split | None, list[Path]]) -> str:
    return ", ".join(folder.name for split, some in found.items() if split for folder in some)


def _inner(folder: Path) -> Path:
    """The folder itself, or the one folder within it that names the same split:
    seg_train/seg_train.
    """
    below = visible(folder)
    if len(below) == 1 and below[0].is_dir() and split_of(below[0].name) == split_of(folder.name):
        return _inner(below[0])
    return folder


def _has_images(folder: Path) -> bool:
    known = images.suffixes()
    return any(file.suffix.lower() in known for file in files_below(folder))


def _class_folders(
    roots: list[Path], notes: tuple[str, ...], tested_elsewhere: bool
) -> tuple[Rows, Rows | None]:
    """The images in the class folders of some roots, to train on and to test on.

    There are some to test on only where classes hold splits of their own (cat/train/1.png).
    """
    walk = Walk()
    found: dict[Split | None, list[tuple[str, Path]]] = {}
    for root in roots:
        for folder in filter(Path.is_dir, visible(root)):
            walk.keep_for(folder)
    for root in roots:
        for folder in visible(root):
            label = unicodedata.normalize("NFC", folder.name)
            for file in _images_of(folder, walk):
                inside = [split_of(part) for part in file.relative_to(folder).parts[:-1]]
                split = next((one for one in reversed(inside) if one), None)
                found.setdefault(split, []).append((label, file))
    origin = str(roots[0]) + (f" (and {len(roots) - 1} more)" if len(roots) > 1 else "")
    if not found:
        raise DataError(
            f"{origin} holds no class folders: expected one subfolder of images a class"
        )
    if set(found) == {None}:
        return _rows(origin, found[None], (*notes, *walk.notes())), None
    if {"train", None} <= set(found):
        raise DataError(
            f"{found[None][0][1]} lies in no split, but others of {origin} lie in folders named "
            "for one: put each image of a class into its train or test folder"
        )
    chosen = choose(found, origin, tested_elsewhere)
    unused = sum(map(len, found.values())) - len(chosen.train) - len(chosen.test)
    left = (f"not used: {unused} images of other splits",) if unused else ()
    return (
        _rows(f"train in {origin}", chosen.train, (*notes, *walk.notes(), *left)),
        _rows(f"test in {origin}", chosen.test, ()) if chosen.test else None,
    )


def _images_of(folder: Path, walk: Walk) -> list[Path]:
    if not folder.is_dir():
        raise DataError(
            f"{folder} lies beside the class folders: remove it or put it into the folder of "
            "its class"
        )
    known = images.suffixes()
    files = list(walk.files(folder))
    for file in files:
        if file.suffix and file.suffix.lower() not in known:
            raise DataError(
                f"{file} is not an image ({', '.join(images.FORMATS)}): remove it or move it "
                "out of the class folder"
            )
    if not files:
        why = walk.again[-1] if walk.again and walk.again[-1].startswith(f"{folder} ") else ""
        raise DataError(
            f"the class folder {folder} holds no images{f' ({why})' if why else ''}: fill it or "
            "remove it"
        )
    return files


def _rows(origin: str, found: list[tuple[str, Path]], notes: tuple[str, ...]) -> Rows:
    labels = [label for label, _ in found]
    files = [file for _, file in found]
    return Rows(
        origin,
        labels,
        files.__getitem__,
        names=tuple(sorted(set(labels))),
        order="by the names of their folders",
        called=lambda i: str(files[i]),
        notes=notes,
    )
