"""YAML as jobs are written in it: plain values only, bounded before any of it is built.

Aliases may repeat a value, but a few lines of them can stand for billions of values, nested lists
can be deeper than any reader goes, and a number can have more digits than Python reads.
"""

from typing import Any

import yaml

MAX_CHARACTERS = 2**18
MAX_DEPTH = 24
MAX_VALUES = 20_000
# The longest number or date; and the longest text, such as a path.
MAX_NUMBER_CHARACTERS, MAX_TEXT_CHARACTERS = 64, 4096

# libyaml's is eight times as fast, which lists of hundreds of runs show; not every build has it.
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = yaml.SafeLoader("")
_TEXT = "tag:yaml.org,2002:str"


def parse_yaml(text: str) -> Any:
    """The values that `text` holds: dicts, lists, texts, numbers, dates, booleans and None.

    Raises ValueError with a short sentence for anything else and for what is beyond the bounds.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, more than the {MAX_CHARACTERS} of a job")
    try:
        _check_size(text)
        return yaml.load(text, _SafeLoader)
    except yaml.reader.ReaderError as error:
        raise ValueError(
            f"it is not YAML: character {error.position + 1} is #x{error.character:04x}, and "
            f"{error.reason}"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{line}it is not YAML: {getattr(error, 'problem', error)}") from None
    except (OverflowError, RecursionError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"it is not YAML: {error}") from None


def _check_size(text: str) -> None:
    """Go through the text's events, which takes no more than its length, and count what it holds.

    An alias counts for as many values as the anchor it repeats.
    """
    values, anchors = 0, dict[str, int]()
    open_collections: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, _SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise ValueError(f"{_line(event)}: alias *{event.anchor} stands for no whole value")
            values += anchors[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            _check_scalar(event)
            if event.anchor:
                anchors[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, values))
            values += 1
            if len(open_collections) > MAX_DEPTH:
                raise ValueError(f"{_line(event)}: it is nested more than {MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_collections.pop()
            if anchor:
                anchors[anchor] = values - before
        if values > MAX_VALUES:
            raise ValueError(f"{_line(event)}: it holds more than {MAX_VALUES} values")


def _check_scalar(event: Any) -> None:
    if len(event.value) > MAX_TEXT_CHARACTERS:
        raise ValueError(
            f"{_line(event)}: a text has {len(event.value)} characters, more than "
            f"{MAX_TEXT_CHARACTERS}"
        )
    if len(event.value) > MAX_NUMBER_CHARACTERS:
        kind = event.tag or _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
        if kind != _TEXT:
            raise ValueError(
                f"{_line(event)}: a number has {len(event.value)} characters, more than "
                f"{MAX_NUMBER_CHARACTERS}"
            )


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"
