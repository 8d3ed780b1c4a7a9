"""Checks an ONNX file from a server before it is run, without the onnx package.

An ONNX file is a protocol buffer: numbered fields, some of which hold further fields. Only those
are read here that say what a graph may do: which operators it uses, and which files it opens.
Field numbers: onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from collections.abc import Iterator

from cutlayer.errors import RefusedError

MAX_GRAPH_BYTES = 2**26
MAX_NODES = 2**14
NEWEST_OPSET = 20

_DAMAGED = "program: its graph is damaged: have it sent again"
_Field = tuple[int, int | memoryview]


def check_graph(content: bytes, weights: str, weights_bytes: int) -> None:
    """Raise RefusedError for a graph that does more than compute with ONNX's own operators.

    weights: the name of the one file that it may read beside itself; weights_bytes: its size.
    """
    check_size(len(content))
    graphs = 0
    for number, value in _fields(memoryview(content)):
        if number == 8:  # opset_import
            _check_opset(_message(value))
        elif number in (20, 25):  # training_info, functions
            raise RefusedError("program: its graph has functions of its own: none are allowed")
        elif number == 7:
            graphs += 1
            _check_nodes(_message(value), weights, weights_bytes)
    if graphs != 1:
        raise RefusedError(_DAMAGED)


def check_size(graph_bytes: int) -> None:
    """Raise RefusedError for a graph that is too large, before it is fetched or read."""
    if graph_bytes > MAX_GRAPH_BYTES:
        raise RefusedError(
            f"program: its graph takes {graph_bytes} bytes, above the limit of {MAX_GRAPH_BYTES}: "
            "run the same cutlayer on both sides"
        )


def _check_opset(opset: memoryview) -> None:
    domain, version = "", 0
    for number, value in _fields(opset):
        if number == 1:
            domain = _text(value)
        elif number == 2:
            version = _whole(value)
    _check_domain(domain)
    if version > NEWEST_OPSET:
        raise RefusedError(
            f"program: its graph is of version {version} of ONNX's operators, above "
            f"{NEWEST_OPSET}: run the same cutlayer on both sides"
        )


def _check_nodes(graph: memoryview, weights: str, weights_bytes: int) -> None:
    nodes = 0
    for number, value in _fields(graph):
        if number == 1:
            nodes += 1
            if nodes > MAX_NODES:
                raise RefusedError(f"program: its graph has more than {MAX_NODES} nodes")
            _check_node(_message(value))
        elif number == 5:
            _check_tensor(_message(value), weights, weights_bytes)
        elif number == 15:
            raise RefusedError("program: its graph has sparse tensors: none are allowed")


def _check_node(node: memoryview) -> None:
    for number, value in _fields(node):
        if number == 7:
            _check_domain(_text(value))
        elif number == 5:
            for inner, _ in _fields(_message(value)):
                if inner in (6, 11):  # a graph within the node, as in a loop
                    raise RefusedError("program: its graph has inner graphs: none are allowed")
                if inner in (22, 23):
                    raise RefusedError("program: its graph has sparse tensors: none are allowed")
                if inner in (5, 10):
                    _check_inline(_message(value))


def _check_inline(attribute: memoryview) -> None:
    """Raise RefusedError unless the tensors of an attribute lie in the graph itself."""
    for number, value in _fields(attribute):
        if number in (5, 10):
            _check_tensor(_message(value), "", 0)


def _check_domain(domain: str) -> None:
    if domain not in ("", "ai.onnx"):
        raise RefusedError(
            f"program: its graph uses operators of {domain!r}, but only ONNX's own are allowed: "
            "run the same cutlayer on both sides"
        )


def _check_tensor(tensor: memoryview, weights: str, weights_bytes: int) -> None:
    """Raise RefusedError unless a tensor is in the graph or within the file of weights."""
    entries = {}
    for number, value in _fields(tensor):
        if number == 13:
            pair = {inner: _text(part) for inner, part in _fields(_message(value))}
            entries[pair.get(1, "")] = pair.get(2, "")
    if not entries:
        return
    try:
        offset, length = int(entries.get("offset", "0")), int(entries["length"])
    except (KeyError, ValueError):
        raise RefusedError(_DAMAGED) from None
    inside = offset >= 0 and length >= 0 and offset + length <= weights_bytes
    if not weights or entries.get("location") != weights or not inside:
        raise RefusedError(
            f"program: its graph reads {entries.get('location')!r} from byte {offset} on, which is "
            "not within its weights: have it sent again"
        )


def _fields(message: memoryview) -> Iterator[_Field]:
    """Field numbers and values; RefusedError if the bytes are not a protocol buffer."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise RefusedError(_DAMAGED)
        if size > len(message) - at:
            raise RefusedError(_DAMAGED)
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise RefusedError(_DAMAGED)


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise RefusedError(_DAMAGED)
    return value


def _whole(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise RefusedError(_DAMAGED)
    return value


def _text(value: int | memoryview) -> str:
    try:
        return bytes(_message(value)).decode()
    except UnicodeDecodeError:
        raise RefusedError(_DAMAGED) from None
