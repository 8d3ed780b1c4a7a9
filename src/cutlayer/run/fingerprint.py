"""What a model and a data set are, as hashes of their files: neither is loaded."""

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from cutlayer.job import Data, Model
from cutlayer.model.files import BESIDE, BUNDLED, VOCABULARIES, find_file

_INDEX = "model.safetensors.index.json"
_CONFIGS = ("config.json", "preprocessor_config.json", *VOCABULARIES, *BESIDE)
_TABLES = {".parquet", ".arrow", ".npz", ".csv", ".tsv", ".jsonl", ".json"}
_TEST_SPLITS = ("test", "val", "dev", "eval")


def of_parts(*parts: object) -> str:
    """A hash of the texts of `parts`: 64 hexadecimal digits, the same on any machine."""
    whole = hashlib.sha256()
    for part in parts:
        text = str(part).encode()
        whole.update(len(text).to_bytes(8, "little") + text)
    return whole.hexdigest()


def of_file(path: Path) -> str:
    """The SHA-256 of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_model(model: Model, seed: int) -> str | None:
    """A hash of the checkpoint: its configurations, its tokenizer and its weights.

    Nothing is downloaded: None where the checkpoint or its weights are not on this machine.
    seed: draws the weights where they are random. Raises ModelError for a folder that is not there.
    """
    found = {name: _on_disk(model.path, name) for name in _CONFIGS}
    if found["config.json"] is None:
        return None
    parts = [f"{name} {of_file(path)}" for name, path in found.items() if path is not None]
    if model.weights == "random":
        return of_parts(*parts, "random", seed)
    index = _on_disk(model.path, _INDEX)
    single = _on_disk(model.path, "model.safetensors")
    if single is not None:
        weights = [single]
    elif index is not None:
        weights = sorted(index.parent.glob("*.safetensors"))
    else:
        return None
    return of_parts(*parts, *(of_file(path) for path in weights))


def of_data(data: Data, seed: int) -> str | None:
    """A hash of a source's files and of the settings that say what to read from them.

    Tables are hashed whole, images by name and size, a data set on the hub by its name and, where
    it is in the hub's cache, its commit. `train_samples` and the division among devices do not
    count: they take parts of the same training split. seed: counts where the test split may be
    held out of the training data by it. None where the files are not on this machine.
    """
    settings: list[object] = [data.source, data.input_column, data.label_column]
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
    """The name of each visible file below `folder`, and what it holds: a hash, or its size."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
            table = path.suffix.lower() in _TABLES
            yield name, of_file(path) if table else str(path.stat().st_size)


def _tested_on(name: str) -> bool:
    """Whether a file is of a test split, as sources find it: by how its path's parts begin."""
    return any(part.lower().startswith(_TEST_SPLITS) for part in name.split("/"))


def _on_disk(path: str, name: str) -> Path | None:
    """The file `name` of a checkpoint if it is on this machine, the hub's cache included."""
    if path in BUNDLED or Path(path).expanduser().is_dir() or path.count("/") > 1:
        return find_file(path, name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(path, name)
    except HFValidationError:
        return find_file(path, name)  # which says what is wrong with the name
    return Path(cached) if isinstance(cached, str) else None


def _commit(name: str) -> str:
    """The commit of a data set's main branch in the hub's cache, "" where it is not there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    repo = name.partition(":")[0].replace("/", "--")
    branch = Path(HF_HUB_CACHE) / f"datasets--{repo}" / "refs" / "main"
    return branch.read_text().strip() if branch.is_file() else ""
