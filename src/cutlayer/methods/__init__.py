"""Published methods by name, each in one short file, and the way to name one's own."""

import importlib
from types import ModuleType

from cutlayer.errors import JobError
from cutlayer.own_code import load_own, refresh
from cutlayer.settings.method import Method

# The order is that of the table `cutlayer methods`: references first.
NAMES = (
    "centralized", "local-lora", "fedlora", "split-lora", "sflora", "tsflora", "st-sflora",
    "st-sflora-full", "sflam", "asfl", "asfv", "auto", "lean", "genfl", "genfv",
)  # fmt: skip


def find_method(name: str) -> Method:
    """The method called `name`, or the `Method` object at `package.module:OBJECT`.

    Raises JobError when there is no such method.
    """
    if ":" in name:
        refresh({"method.name": name})
        method = load_own("method.name", name)
        if not isinstance(method, Method):
            raise JobError(f"method.name: {name!r} is a {type(method).__name__}, not a Method")
        return method.model_copy(update={"name": name})
    if name not in NAMES:
        raise JobError(
            f"method.name: no method is called {name!r}: take one of {', '.join(NAMES)}, "
            "or package.module:OBJECT for your own"
        )
    method = _module(name).METHOD
    assert isinstance(method, Method)
    return method


def summary(name: str) -> str:
    """The first line of the docstring of a published method's file."""
    return (_module(name).__doc__ or "").strip().splitlines()[0]


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"cutlayer.methods.{name.replace('-', '_')}")
