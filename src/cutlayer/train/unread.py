"""Settings of a job that have no effect: refused, or reported where another method would use them.

Only a setting that differs from its default, or from that of the named method, counts as set.
So a saved job, in which every default is written out, sets no more than the job it was saved from.
The table of settings_read.py says which job reads which setting.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cutlayer import methods
from cutlayer.errors import JobError
from cutlayer.job import Job
from cutlayer.settings.method import Method
from cutlayer.train.settings_read import CONDITIONS, MODALITIES


@dataclass(frozen=True)
class Unread:
    """A setting of the job that differs from its default and that nothing reads."""

    field: str
    value: object
    why: str
    said_only: bool

    def sentence(self) -> str:
        """For people."""
        return f"{self.field}: {self.value!r} has no effect: {self.why}"


def unread(job: Job, modality: str | None = None) -> list[Unread]:
    """The job's settings that differ from their defaults and that it does not read.

    The defaults of method settings are those of the named method. modality: what the model reads,
    image or text; None: not known, and settings that depend on it are not checked.
    """
    return list(_unread(job, modality))


def refuse_unread(job: Job, modality: str) -> None:
    """Raise JobError for the first setting without effect, unless it is only to be reported."""
    for one in unread(job, modality):
        if not one.said_only:
            raise JobError(one.sentence())


def _unread(job: Job, modality: str | None) -> Iterator[Unread]:
    for field, conditions in CONDITIONS.items():
        found = _value(job, field)
        if found is None or found[0] == found[1]:
            continue
        for condition in conditions:
            if not condition.holds(job):
                yield Unread(field, found[0], condition.otherwise, condition.said_only)
                break
    for field, needed in MODALITIES.items():
        value, default = _value(job, field) or (None, None)
        if modality is not None and modality != needed and value != default:
            why = f"{job.model.path} reads no {needed}s: leave it out"
            yield Unread(field, value, why, said_only=False)


def _value(job: Job, field: str) -> tuple[Any, Any] | None:
    """A field's value and its default; None where its section is not there."""
    first, *path = field.split(".")
    value, default = getattr(job, first), type(job).model_fields[first].default
    if first == "method":
        default = _preset(job.method)
    for name in path:
        if value is None:
            return None
        if first != "method" or default is None:  # a section that the named method does not have
            default = type(value).model_fields[name].get_default(call_default_factory=True)
        else:
            default = getattr(default, name)
        value = getattr(value, name)
    return value, default


def _preset(method: Method) -> Method:
    try:
        return methods.find_method(method.name)
    except JobError:  # a Method object with a name of its own
        return Method(name=method.name)
