"""Turns words of the command line into settings of a generator, its training and its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from cutlayer.errors import JobError
from cutlayer.settings.generator import GeneratorSettings, GeneratorTraining
from cutlayer.settings.section import Section

Kind = TypeVar("Kind", bound=Section)


def data(name: str | None) -> list[str]:
    """The job's settings for images named by one word; an empty list without a word.

    "demo", a parquet file or a folder that holds one, or a folder with one subfolder a class.
    """
    if name is None:
        return []
    if name == "demo":
        return ["data.source=demo"]
    path = Path(name).expanduser()
    if not path.exists():
        raise JobError(
            f"--data: there is no {name}: name a parquet file or a folder of images, or set "
            "data.source and data.path of a job"
        )
    parquet = path.suffix == ".parquet" or any(path.rglob("*.parquet"))
    return [f"data.source={'parquet' if parquet else 'folder'}", f"data.path={path}"]


def generator(words: Sequence[str]) -> GeneratorSettings:
    """A generator by its name (see `_source`) and `field=value` settings. Raises JobError."""
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise JobError(f"--generator: {names[0]!r} and {names[1]!r} are two: name one generator")
    base = _source(names[0]) if names else {}
    return _made(GeneratorSettings, "generator", base, [word for word in words if "=" in word])


def training(words: Sequence[str]) -> GeneratorTraining:
    """The settings of a generator's training from `field=value`. Raises JobError."""
    return _made(GeneratorTraining, "training", {}, words)


def _source(name: str) -> dict[str, Any]:
    """The settings for a generator's name: demo, a folder (by what it holds), or a hub pipeline."""
    if name == "demo":
        return {"source": "demo"}
    path = Path(name).expanduser()
    if (path / "generator.json").is_file():
        return {"source": "diffusion", "path": str(path)}
    if path.is_dir() and not (path / "model_index.json").is_file():
        return {"source": "folder", "path": str(path)}
    return {"source": "diffusers", "path": name}


def _made(kind: type[Kind], what: str, base: dict[str, Any], words: Sequence[str]) -> Kind:
    values = dict(base)
    for word in words:
        name, equals, text = word.partition("=")
        # A class's name may hold dots: only the first dot separates the field from the class.
        field, _, inner = name.strip().partition(".")
        if not equals or not field:
            raise JobError(f"--{what}: {word!r} is not field=value, as in steps=20")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        values[field] = {**values.get(field, {}), inner: str(text)} if inner else value
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join([what, *map(str, fault["loc"])])
        if fault["type"] == "extra_forbidden":
            raise JobError(
                f"{where}: there is no such field; known are {', '.join(kind.model_fields)}"
            ) from None
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "value_error":
            raise JobError(f"{where}: {message}") from None
        raise JobError(f"{where}: {fault['input']!r} is not valid: {message.lower()}") from None
