"""What to run: a typed job, the same thing as a Python object and as a YAML file."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

import yaml
from pydantic import Field, ValidationError, ValidationInfo, model_validator

from cutlayer import methods
from cutlayer.errors import JobError
from cutlayer.files import read_bounded
from cutlayer.plain_yaml import MAX_CHARACTERS, parse_yaml
from cutlayer.settings.allocation import Allocation
from cutlayer.settings.data import HELD_OUT, Data, Partition
from cutlayer.settings.devices import Devices
from cutlayer.settings.generated import GeneratedData
from cutlayer.settings.method import Method, Quantizer, Tokens
from cutlayer.settings.model import Lora, Model
from cutlayer.settings.privacy import Privacy
from cutlayer.settings.section import Section
from cutlayer.settings.server import ServerSettings
from cutlayer.settings.training import Training
from cutlayer.settings.trust import Trust
from cutlayer.settings.world import WorldSettings

# A value in a sentence about it is no longer than this.
_SHOWN = 80
# As pydantic's context: the job is only looked at, and none of the code that it names is run.
_LOOKING = {"run_code": False}

__all__ = [
    "Allocation",
    "Data",
    "Devices",
    "GeneratedData",
    "Job",
    "Lora",
    "Method",
    "Model",
    "Partition",
    "Privacy",
    "Quantizer",
    "ServerSettings",
    "Tokens",
    "Training",
    "Trust",
    "WorldSettings",
    "change_job",
    "dump_job",
    "load_job",
    "make_job",
    "read_job",
]  # fmt: skip


class Job(Section):
    """One run: model, data, devices, method and training, and the seed of all its randomness."""

    renamed: ClassVar[Mapping[str, str]] = {"augment": "generated"}

    model: Model = Model()
    """The pretrained transformer and where it is cut."""

    data: Data = Data()
    """Where samples come from and who holds which."""

    devices: Devices = Devices()
    """How many devices there are and how many take part in a round."""

    method: Method = methods.find_method("sflora")
    """What runs where, what crosses the cut, and how adapters are combined: the name of a published
    method, or a name and the settings that differ from it.
    """

    training: Training = Training()
    """How long and how fast to train."""

    trust: Trust = Trust()
    """What bounds the share that one device has in what all devices get."""

    privacy: Privacy = Privacy()
    """The noise and bounds that hide devices and their samples."""

    world: WorldSettings | None = None
    """The radio, energy and mobility that time the run; null: a run without a world."""

    server: ServerSettings = ServerSettings()
    """What the server keeps of what devices send."""

    generated: GeneratedData | None = None
    """Images that the server generates and trains on beside the devices; null: none."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of all randomness of the run."""

    @property
    def own_code(self) -> dict[str, str]:
        """The code of one's own, `package.module:NAME`, by the setting of the job that names it."""
        named = {"method.name": self.method.name, **self.method.own_code}
        if self.generated is not None:
            named["generated.weight"] = self.generated.weight
        if self.world is not None:
            named |= self.world.own_code
        return {setting: value for setting, value in named.items() if ":" in value}

    @property
    def cut(self) -> int:
        """Blocks on the device, where the allocation does not choose another cut."""
        return self.model.cut if self.method.cut is None else self.method.cut

    @property
    def has_tail(self) -> bool:
        """Whether devices run the model's last blocks too, and keep their labels."""
        return self.method.split and self.model.tail is not None

    @property
    def data_in_use(self) -> Data:
        """The data section, with the calibration's samples held out of it where the server uses
        them: for auto, or to fit a codec to.
        """
        method, auto = self.method, self.method.allocation.solver == "auto"
        sent = [method.uplink]
        if self.has_tail:
            sent += [method.features_down, method.gradients_up]
        fits = method.split and any(one.fits_own for one in sent)
        if self.data.calibration is None and (auto or fits):
            return self.data.model_copy(update={"calibration": HELD_OUT})
        return self.data

    @property
    def generated_in_use(self) -> GeneratedData | None:
        """The generated data that the server trains on; None where the method goes without."""
        averages = self.method.aggregate == "fedavg" and not self.method.pooled
        return self.generated if averages and self.method.generated is not False else None

    @property
    def sums_securely(self) -> bool:
        """Whether the server learns the sum of the devices' adapters alone."""
        averages = self.method.aggregate == "fedavg" and not self.method.pooled
        return self.privacy.secure_sum and averages

    @model_validator(mode="before")
    @classmethod
    def _fill_method(cls, values: Any, info: ValidationInfo) -> Any:
        """Let `method` be a name, or a name and the settings that differ from its preset."""
        if not isinstance(values, dict) or "method" not in values:
            return values
        method = values["method"]
        if isinstance(method, str):
            method = {"name": method}
        if isinstance(method, dict):
            name = str(method.get("name", "sflora"))
            if ":" in name and info.context is _LOOKING:
                # Written with all of its settings, as run folders have it, it needs no preset.
                if not Method.model_fields.keys() <= method.keys():
                    raise JobError(
                        f"method.name: {_short(name)} is code, which is not run to look at a job"
                    )
                return values
            method = _merged(methods.find_method(name).model_dump(), method)
        return {**values, "method": method}


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, section by section."""
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out


def make_job(values: dict[str, Any]) -> Job:
    """A validated job from plain values. Raises JobError with one sentence for the first fault.

    values: by section, as a YAML file has them.
    """
    try:
        return Job.model_validate(values)
    except ValidationError as error:
        raise JobError(_sentence(error)) from None


def load_job(source: str | Path | None, settings: tuple[str, ...] | list[str] = ()) -> Job:
    """A job from a YAML file (None: the defaults), with `section.field=value` settings on top.

    source: the file, or None. settings: each as `section.field=value`, the last one wins.
    Raises JobError for an unreadable file, an unknown field or an impossible value.
    """
    values = _read_file(Path(source)) if source is not None else {}
    for setting in settings:
        _set(values, setting)
    return make_job(values)


def read_job(source: str | Path) -> Job:
    """A job from a YAML file that is only looked at: no code that it names is run.

    Raises JobError as `load_job`.
    """
    return parse_job(_read_file(Path(source)))


def parse_job(values: Any) -> Job:
    """A job from values that somebody else wrote: no code that they name is run.

    Raises JobError with one sentence for the first fault.
    """
    try:
        return Job.model_validate(values, context=_LOOKING)
    except ValidationError as error:
        raise JobError(_sentence(error)) from None


def dump_job(job: Job) -> str:
    """The job as YAML, every field written out; `load_job` reads it back to an equal job.

    job: what to write.
    """
    return yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False)


def brief_job(job: Job) -> str:
    """The job as YAML without the settings that are at their defaults, as devices are told it.

    `parse_job` reads it back to an equal job; so does an earlier version that lacks a setting, as
    long as that one is at its default. A section whose defaults cannot be left out, such as a
    method of one's own, is written out.
    """
    whole = job.model_dump(mode="json")
    brief = job.model_dump(mode="json", exclude_defaults=True)
    told: dict[str, Any] = {}
    for section, values in whole.items():
        if section in brief:
            told[section] = brief[section]
            if getattr(parse_job({**whole, section: brief[section]}), section) != getattr(
                job, section
            ):
                told[section] = values
    return yaml.safe_dump(told, sort_keys=False)


def change_job(job: Job, settings: tuple[str, ...] | list[str]) -> Job:
    """`job` with `section.field=value` settings applied.

    job: stays as it is. settings: each as `section.field=value`, the last one wins. Raises JobError
    as `load_job`.
    """
    # What the job does not name stays unnamed: a plan asks whether it names data.
    values = job.model_dump(mode="json", exclude_unset=True)
    for setting in settings:
        _set(values, setting)
    return make_job(values)


def split_values(text: str) -> list[str]:
    """The values of `a,b,c`; commas within brackets, braces or quotes belong to a value."""
    values, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "[{(") - (sign in ")}]")
        if sign == "," and depth <= 0 and not quote:
            values.append("")
        else:
            values[-1] += sign
    return [value.strip() for value in values]


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(read_bounded(path, 4 * MAX_CHARACTERS).decode())
    except FileNotFoundError:
        raise JobError(f"job: there is no file {path}: give the path of a YAML job") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise JobError(f"job: cannot read {path} ({reason}): give a YAML text file") from None
    except ValueError as error:
        raise JobError(f"job: {path}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise JobError(
            f"job: {path} holds a {type(values).__name__}: write sections, as model: ..."
        )
    return values


def _set(values: dict[str, Any], setting: str) -> None:
    """Put `section.field=value` into `values`."""
    path, equals, text = setting.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise JobError(f"--set: {setting!r} is not section.field=value, as in training.rounds=3")
    try:
        value = parse_yaml(text)
    except ValueError:
        value = text
    for key in keys[:-1]:
        below = values.get(key)
        if key == "method" and isinstance(below, str):
            below = {"name": below}
        values[key] = dict(below) if isinstance(below, dict) else {}
        values = values[key]
    if keys == ["method"]:
        value = {"name": value}
    elif keys[-1] == "name" and keys[:-1] == ["method"]:
        values.clear()  # another method: its own preset, not the settings of the last
    values[keys[-1]] = value


def _fields(location: tuple[int | str, ...]) -> list[str]:
    """The field names of the section at `location` of a job."""
    section: Any = Job
    for key in location:
        field = section.model_fields.get(key)
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        section = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if section is None:
            return []
    return list(section.model_fields)


def _sentence(error: ValidationError) -> str:
    """The first fault as one sentence: the field, the value and what would be right."""
    fault = error.errors()[0]
    # Choices of a union add names that are no fields, as in model.image_size.int.
    loc = fault["loc"]
    location = tuple(key for i, key in enumerate(loc) if key in _fields(loc[:i])) or loc[:1]
    if fault["type"] == "extra_forbidden":
        location = loc
        known = _fields(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{'.'.join(map(str, location))}: there is no such field; {remedy}"
    path = ".".join(map(str, location)) or "job"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{path}: {message}"
    message = message[0].lower() + message[1:]
    return f"{path}: {_short(fault['input'])} will not do: {message}"


def _short(value: Any) -> str:
    """A value as a sentence shows it."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python writes
        text = "a number"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."
