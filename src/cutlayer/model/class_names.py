"""The names of the classes in a folder of a trained adapter or model; no tensor is read."""

import json
from pathlib import Path

from cutlayer.files import read_bounded
from cutlayer.model.files import MAX_CONFIG_BYTES

LABELS = "labels.json"
"""The file beside an adapter with id2label and label2id, as in Hugging Face's configurations."""


def class_names(folder: Path) -> list[str] | None:
    """The names in labels.json, or else in config.json; None where there is neither.

    Raises OSError or ValueError for files that cannot be read.
    """
    file = folder / LABELS
    if not file.is_file():
        file = folder / "config.json"
    if not file.is_file():
        return None
    values = json.loads(read_bounded(file, MAX_CONFIG_BYTES))
    found = values.get("id2label") if isinstance(values, dict) else None
    if not isinstance(found, dict) or not found:
        return None
    names = [found.get(str(number)) for number in range(len(found))]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"id2label of {file.name} does not name classes 0 to {len(found) - 1}")
    return [str(name) for name in names]
