"""A hash of a data set's files, found without loading them."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from cutlayer.data.below import files_below
from cutlayer.data.splits import split_of
from cutlayer.fingerprint import of_file, of_parts
from cutlayer.settings.data import HELD_OUT, Data

_TABLES = {".parquet", ".arrow", ".npz", ".csv", ".tsv", ".jsonl", ".json"}


def of_data(data: Data, seed: int) -> str | None:
    """A hash of a source's files and of the settings that say what to read from them.

    Tables are hashed whole, images by name and size, a data set on the hub by its name and, if it
    is in the hub's cache, its commit. `train_samples` and the division among devices are not in
    the hash: they only take parts of the same training split. The samples that calibrate are in
    the hash: a part of the training data, or data of their own. seed: in the hash only where it
    decides which training data become the test split. None where the files are not on this machine.
    """
    settings: list[object] = [data.source, data.input_column, data.label_column, "held-out"]
    if data.calibration not in (None, HELD_OUT):
        own = of_data(data.model_copy(update={"path": data.calibration, "calibration": None}), seed)
        if own is None:
            return None
        settings[-1] = own
    if (data.delimiter, data.encoding, data.quotes) != (None, None, "auto"):
        settings += [data.delimiter, data.encoding, data.quotes]
    if data.kind != "auto" or data.completion_column is not None:
        settings += [data.kind, data.completion_column]
    if data.source == "demo":
        asset = Path(str(files("cutlayer.assets"))) / "fashion-mnist.npz"
        return of_parts(*settings, of_file(asset)) if asset.is_file() else None
    contents: list[str] = []
    apart = data.test_path is not None
    for path in (data.path, data.test_path):
        if path is None:
            continue
        place = Path(path).expanduser()
        if place.is_dir():
            found = list(_files(place))
            apart = apart or any(_tested_on(name) for name, _ in found)
            contents += [f"{content} {name}" for name, content in found]
        elif place.is_file():
            contents.append(of_file(place))
        elif data.source == "hub":
            contents.append(f"{path} {_commit(path)}")
        else:
            return None
    return of_parts(*settings, data.test_path is None, "" if apart else seed, *contents)


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """The name of each visible file below `folder`, and its hash (a table) or its size in bytes."""
    for path in files_below(folder):
        table = path.suffix.lower() in _TABLES
        yield (
            path.relative_to(folder).as_posix(),
            (of_file(path) if table else str(path.stat().st_size)),
        )


def _tested_on(name: str) -> bool:
    """Whether a file belongs to a test split, by any part of its path, as sources decide it."""
    return any(split_of(part.partition(".")[0]) in ("test", "val") for part in name.split("/"))


def _commit(name: str) -> str:
    """The commit of a data set's main branch in the hub's cache; "" if the cache has none."""
    from huggingface_hub.constants import HF_HUB_CACHE

    repo = name.partition(":")[0].replace("/", "--")
    branch = Path(HF_HUB_CACHE) / f"datasets--{repo}" / "refs" / "main"
    return branch.read_text(encoding="utf-8").strip() if branch.is_file() else ""
