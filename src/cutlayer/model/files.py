"""Where a checkpoint's files are: bundled with the package, in a local folder, or on the hub."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from cutlayer.errors import ModelError
from cutlayer.files import read_bounded

MAX_CONFIG_BYTES = 2**24
"""Most bytes of a JSON file beside a model's weights."""

MOST_BLOCKS, MOST_SIZE, MOST_PIXELS = 4096, 2**24, 2**14
"""The most blocks, the largest other number in config.json, and the most pixels a side of an image.

They are above those of every checkpoint there is; a larger model would take forever to build.
"""

# Files from which a tokenizer may be read, best first, and files that may lie beside them.
VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model",
    "tokenizer.model",
)  # fmt: skip
BESIDE = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt",
    "chat_template.jinja",
)  # fmt: skip

BUNDLED = {"demo": "demo-vit", "resnet18": "resnet18"}


def find_file(path: str, name: str) -> Path | None:
    """The file `name` of the checkpoint `path`, downloaded first if the hub holds it.

    path: a bundled name (of `BUNDLED`), a local folder or a Hugging Face hub name.
    Returns None when the checkpoint is there but has no such file.
    Raises ModelError when there is no such checkpoint or the hub cannot be reached.
    """
    if path in BUNDLED:
        folder = Path(str(files("cutlayer.assets"))) / BUNDLED[path]
    else:
        folder = Path(path).expanduser()
    if folder.is_dir():
        file = folder / name
        return file if file.is_file() else None
    if path in BUNDLED:
        raise ModelError(f"model.path: {path!r} is not in this installation ({folder}): reinstall")
    if path.startswith((".", "~")) or folder.is_absolute() or path.count("/") > 1:
        raise ModelError(
            f"model.path: there is no folder {path}: give a folder with config.json and "
            f"model.safetensors, a hub name, or {' or '.join(BUNDLED)}"
        )
    return _download(path, name)


def read_json(path: str, name: str) -> dict[str, Any] | None:
    """The JSON object in the file `name` of the checkpoint `path`, or None if there is none.

    Raises ModelError as `find_file` does, and for a file that is not a JSON object.
    """
    file = find_file(path, name)
    if file is None:
        return None
    try:
        values = json.loads(read_bounded(file, MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"model.path: {file} cannot be read ({error}): restore the file") from None
    if not isinstance(values, dict):
        raise ModelError(f"model.path: {file} holds no JSON object: restore the file")
    return values


def _download(repo: str, name: str) -> Path | None:
    """The file `name` of the hub's `repo`, from the local cache if it is there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(repo, name))
    except (HFValidationError, RepositoryNotFoundError):
        raise ModelError(
            f"model.path: {repo!r} is neither a local folder nor a model on the Hugging Face hub: "
            "check the name (a private model needs `hf auth login`)"
        ) from None
    except LocalEntryNotFoundError:
        raise ModelError(
            f"model.path: {repo!r} is not a local folder and the Hugging Face hub is out of reach: "
            "check the connection or give a folder"
        ) from None
    except EntryNotFoundError:
        return None
    except Exception as error:  # what the network raises differs by version of the client
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model.path: {repo!r} could not be fetched from the Hugging Face hub ({reason}): "
            "try again or give a folder"
        ) from None
