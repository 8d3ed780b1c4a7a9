"""A hash of a checkpoint's files, found without loading it."""

from pathlib import Path

from cutlayer.fingerprint import of_file, of_parts
from cutlayer.model.files import BESIDE, BUNDLED, VOCABULARIES, find_file
from cutlayer.settings.model import Model

_INDEX = "model.safetensors.index.json"
_CONFIGS = ("config.json", "preprocessor_config.json", *VOCABULARIES, *BESIDE)


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


def _on_disk(path: str, name: str) -> Path | None:
    """The file `name` of a checkpoint if it is on this machine, the hub's cache included."""
    if path in BUNDLED or Path(path).expanduser().is_dir() or path.count("/") > 1:
        return find_file(path, name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(path, name)
    except HFValidationError:
        return find_file(path, name)  # it raises an error that says what is wrong with the name
    return Path(cached) if isinstance(cached, str) else None
