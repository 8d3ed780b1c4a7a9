"""What every section of a job has in common."""

from collections.abc import Mapping
from types import FunctionType
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cutlayer.own_code import name_function
from cutlayer.settings.units import in_own_unit

# Beyond what any machine holds, and below what a size in memory can be reckoned with.
Count = Annotated[int, Field(ge=1, le=2**31)]
Bits = Annotated[int, Field(ge=1, le=32)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A frozen part of a job; unknown fields are refused.

    The text below a field is its explanation: `cutlayer settings` and the page of all settings
    print it, and each field has one.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    renamed: ClassVar[Mapping[str, str]] = {}
    """Fields that jobs of an earlier version have, and what each is called now."""

    @model_validator(mode="before")
    @classmethod
    def _says_what_was_renamed(cls, values: Any) -> Any:
        """Refuse an earlier name by the new one; one without a value says nothing and is let go."""
        if not isinstance(values, dict):
            return values
        for old, new in cls.renamed.items():
            if values.get(old) is not None:
                raise ValueError(f"{old!r} is called {new!r} now: write {new} in its place")
        return {key: value for key, value in values.items() if key not in cls.renamed}

    @model_validator(mode="before")
    @classmethod
    def _reads_units_and_functions(cls, values: Any) -> Any:
        """Take `50 MHz` for 50e6 where a field's name says that it is in Hz, and a function for
        the name by which it is found.
        """
        if not isinstance(values, dict):
            return values
        found = dict(values)
        for key, value in values.items():
            if isinstance(value, FunctionType):
                found[key] = name_function(value)
            elif key in cls.model_fields:
                found[key] = in_own_unit(key, value)
        return found
