"""Data sets of the Hugging Face hub, or folders of them: which of their splits are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cutlayer.data import tables
from cutlayer.data.rows import Rows
from cutlayer.data.splits import Split, choose, split_of
from cutlayer.errors import DataError
from cutlayer.settings.data import Data


def read(data: Data) -> tuple[Rows, Rows | None]:
    """The rows to train on and to test on, of a data set on the hub or a folder of one.

    Raises DataError.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            "data.source='hub' needs the package datasets: pip install cutlayer[datasets]"
        ) from None
    assert data.path is not None  # the job was validated
    folder = Path(data.path)
    try:
        if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(data.path)
        else:
            name, _, config = (data.path, "", "") if folder.exists() else data.path.partition(":")
            loaded = datasets.load_dataset(name, config or None)
    except Exception as error:  # the package raises a dozen unrelated types
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"data.path={data.path!r} cannot be loaded as a Hugging Face dataset ({cause}): name "
            "a dataset (`name` or `name:configuration`) or a folder of one"
        ) from error
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    if data.test_path is not None and data.test_path not in splits:
        raise DataError(
            f"data.test_path={data.test_path!r} is no split of {data.path!r}, which has the splits "
            f"{', '.join(splits)}"
        )
    train, test, notes = _named(splits, data)
    base = folder if folder.is_dir() else Path()
    rows = tables.hub(splits[train], data, f"{data.path} {train}", base)
    return (
        replace(rows, notes=notes),
        None if test is None else tables.hub(splits[test], data, f"{data.path} {test}", base),
    )


def _named(splits: dict[str, Any], data: Data) -> tuple[str, str | None, tuple[str, ...]]:
    """The names of the splits to train on and to test on, and notes on splits that are not used."""
    if len(splits) == 1:
        (only,) = splits
        return only, data.test_path, ()
    found: dict[Split | None, list[str]] = {}
    for name in splits:
        if name != data.test_path:
            found.setdefault(split_of(name), []).append(name)
    chosen = choose(found, f"data.path={data.path!r}", data.test_path is not None)
    for several in (chosen.train, chosen.test):
        if len(several) > 1:
            raise DataError(
                f"data.path={data.path!r} has the splits {', '.join(several)} for one purpose: "
                "name a data set, or a configuration of it, with one of them"
            )
    return chosen.train[0], data.test_path or next(iter(chosen.test), None), chosen.notes
