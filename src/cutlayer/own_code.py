"""Code of one's own that a job names by `module:NAME`: found, loaded anew when changed, hashed."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from pathlib import Path
from traceback import extract_tb
from types import FunctionType, ModuleType
from typing import Any

from cutlayer.errors import CutlayerError, JobError
from cutlayer.fingerprint import of_file

GIVEN = "given_here"
"""The module of functions that have no file, such as those of a notebook; of this process only."""

_loaded: dict[str, str] = {}
"""SHA-256 of the file of each module, as it was when the module was loaded."""


def name_function(function: FunctionType) -> str:
    """The `module:NAME` by which a job names a function that it was given as an object.

    One without a file (of a notebook, or made by another function) is kept in this process, under
    its name and the beginning of its source's SHA-256.
    """
    module = sys.modules.get(function.__module__)
    named = getattr(module, function.__qualname__, None) is function
    if module is not None and named and function.__module__ != "__main__" and _file(module):
        return f"{function.__module__}:{function.__name__}"
    try:
        source = inspect.getsource(function).encode()
    except (OSError, TypeError):  # typed in at a prompt
        source = function.__code__.co_code + repr(function.__code__.co_consts).encode()
    plain = "".join(letter for letter in function.__name__ if letter.isalnum() or letter == "_")
    name = f"{plain}_{hashlib.sha256(source).hexdigest()[:12]}"
    sys.modules.setdefault(GIVEN, ModuleType(GIVEN)).__dict__[name] = function
    return f"{GIVEN}:{name}"


def load_own(setting: str, name: str) -> Any:
    """The object at `package.module:NAME`, which the job's `setting` names.

    Raises JobError, which names the setting, where there is none or its module cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if module == GIVEN and not hasattr(sys.modules.get(GIVEN), attribute):
        raise JobError(
            f"{setting}: {name!r} was a function of a notebook or a prompt, which another process "
            "does not have: put it into a file and name it by module:NAME"
        )
    try:
        return getattr(_module(module), attribute)
    except Exception as error:  # importing runs the module, which can fail in any way
        plain = isinstance(error, ImportError | AttributeError)
        why = str(error) if plain else f"{type(error).__name__}: {error}"
        raise JobError(f"{setting}: cannot import {name!r} ({why})") from None


def load_own_function(setting: str, name: str) -> Any:
    """As `load_own`, of a function. Raises JobError where it is something else.

    What the function raises when it is called becomes a JobError too, which names the setting, the
    function and the line of its file; the original error is its cause.
    """
    function = load_own(setting, name)
    if not callable(function):
        raise JobError(f"{setting}: {name!r} is not a function")
    return _named(setting, name, function)


@lru_cache(maxsize=64)
def _named(setting: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except CutlayerError:
            raise
        except Exception as error:  # code of one's own can fail in any way
            raise JobError(
                f"{setting}: {name!r} failed{_where(error)} ({type(error).__name__}: {error}): "
                "mend it"
            ) from error

    return called


def _where(error: Exception) -> str:
    """The last line of Python that an error passed outside of this file, in words."""
    frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename != __file__]
    return f" at {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def refresh(named: Mapping[str, str]) -> dict[str, str]:
    """Load the modules anew whose file changed; the SHA-256 of the file by setting.

    named: `package.module:NAME` by the setting that names it. A run calls this once, before its
    first round, so that all of it runs the same code. What such a module imports in turn is not
    looked at. Raises JobError.
    """
    hashes = {}
    for setting, name in named.items():
        module = name.partition(":")[0]
        load_own(setting, name)
        path = _file(_module(module))
        if path is None:
            continue
        try:
            found = of_file(path)
            if _loaded.get(module) != found:
                # Not importlib.reload: Python's cache of compiled files takes an edit within the
                # same second for none if the size stays.
                exec(compile(path.read_bytes(), str(path), "exec"), vars(_module(module)))
                _loaded[module] = found
        except Exception as error:  # as above
            raise JobError(f"{setting}: cannot load {path} ({error}): mend it") from None
        load_own(setting, name)
        hashes[setting] = found
    return hashes


def with_hash(setting: str, name: str) -> str:
    """A name as records keep it: code of one's own with the hash of its file. Raises JobError."""
    if ":" not in name:
        return name
    return " ".join([name, *refresh({setting: name}).values()])


def _module(name: str) -> ModuleType:
    module = importlib.import_module(name)
    path = _file(module)
    if name not in _loaded and path is not None:
        _loaded[name] = of_file(path)
    return module


def _file(module: ModuleType) -> Path | None:
    """The source file of a module; None for one without, such as a compiled module."""
    path = Path(getattr(module, "__file__", None) or "")
    return path if path.suffix == ".py" and path.is_file() else None
