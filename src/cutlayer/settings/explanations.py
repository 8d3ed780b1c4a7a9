"""What can be set in a section and the sections below it: kind, default and explanation of each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from cutlayer.settings.section import Section

_KINDS = {
    "integer": "whole number", "number": "number", "boolean": "true, false", "string": "text",
    "object": "texts by name", "null": "null",
}  # fmt: skip
_ADVICE = 10_000
"""Upper bounds beyond this keep a machine from harm; they are no advice, and are not printed."""

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Setting:
    """One field: its name within its section, what it may be, its default, and what it does."""

    name: str
    kind: str
    default: str
    explanation: str


@dataclass(frozen=True)
class ExplainedSection:
    """A section by its dotted path in a job ("" for the job itself), and its own fields."""

    path: str
    purpose: str
    settings: tuple[Setting, ...]


def explain(section: type[Section], path: str = "") -> Iterator[ExplainedSection]:
    """The section and those below it, from the top down, fields in the order they are written in.

    A field that is a section itself is no setting, but a section of its own.
    """
    described = section.model_json_schema()["properties"]
    settings, below = [], []
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not None:
            below.append((inner, f"{path}.{name}".lstrip(".")))
            continue
        default = _written(field.get_default(call_default_factory=True))
        explanation = " ".join((field.description or "").split())
        settings.append(Setting(name, _kind(described[name]), default, explanation))
    yield ExplainedSection(path, " ".join((section.__doc__ or "").split()), tuple(settings))
    for inner, at in below:
        yield from explain(inner, at)


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a field with this annotation holds; None where it holds a value."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _kind(schema: dict[str, Any]) -> str:
    """A field's JSON schema in words."""
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}"
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in _BOUNDS.items()
        if key in schema and (">" in sign or schema[key] <= _ADVICE)
    ]
    return " ".join([_KINDS[schema["type"]], *bounds])


def _written(value: Any) -> str:
    """A default as a job's YAML has it."""
    if value is PydanticUndefined:
        return "(needed)"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"
    plain = isinstance(value, str) and value.isprintable()
    return str(value) if plain else json.dumps(value)
