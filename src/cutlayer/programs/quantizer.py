"""The quantiser as nodes of a graph; `wire.quantize` and `wire.rotate` do the same in torch.

Rows become codes and, for each group, a range in float16 in units of one scale, by the same
arithmetic in the same order, so that equal activations give equal bytes.
"""

import numpy as np
import torch

from cutlayer.programs.graph import DOUBLE, FLOAT, HALF, INT32, UINT8, Graph
from cutlayer.wire.levels import CELLS, gaussian_cells
from cutlayer.wire.program_ports import Coding
from cutlayer.wire.quantize import TINY
from cutlayer.wire.rotate import layout, signs


def add_quantizer(graph: Graph, rows: str, width: int, coding: Coding, rotation: int) -> None:
    """Add the outputs codes, scale, and low and high or rms, for rows [n, width].

    rotation: the seed, used if coding.rotate.
    """
    if coding.rotate:
        rows = add_rotation(graph, rows, width, rotation)
    groups = rows
    if coding.per == "tensor":
        groups = graph.add("Reshape", rows, graph.constant([1, -1], np.int64))
    codes = (_uniform if coding.levels == "uniform" else _gaussian)(graph, groups, coding.bits)
    codes = graph.add("Reshape", codes, graph.constant([-1, width], np.int64))
    graph.give_output("codes", codes, UINT8, ["rows", width])


def _uniform(graph: Graph, groups: str, bits: int) -> str:
    """Codes of equal steps from the least to the largest value of each group [G, m]."""
    axis, whole = graph.constant([1], np.int64), graph.constant([0, 1], np.int64)
    low, high = graph.add("ReduceMin", groups, axis), graph.add("ReduceMax", groups, axis)
    reach = graph.add("Max", graph.add("Neg", low), high)
    scale = graph.add("ReduceMax", reach, whole)
    low = _relative(graph, low, scale, down=True)
    high = _relative(graph, high, scale, down=False)
    _give_ranges(graph, scale, low=low, high=high)
    low, high = graph.add("Mul", low, scale), graph.add("Mul", high, scale)
    span = graph.constant(2**bits - 1, np.float32)
    step = graph.add("Div", graph.add("Sub", high, low), span)
    steps = graph.add("Mul", graph.add("Sub", groups, low), _inverse(graph, step))
    steps = graph.add("Add", steps, graph.constant(0.5, np.float32))
    codes = graph.add("Clip", steps, graph.constant(0, np.float32), span)
    return graph.cast(codes, UINT8)


def _gaussian(graph: Graph, groups: str, bits: int) -> str:
    """Codes of the Lloyd-Max levels of a normal distribution with each group's RMS."""
    axis, whole = graph.constant([1], np.int64), graph.constant([0, 1], np.int64)
    squares = graph.add("ReduceSumSquare", graph.cast(groups, DOUBLE), axis)
    length = graph.add("Shape", groups, start=1, end=2)
    root = graph.add("Sqrt", graph.cast(length, DOUBLE))
    rms = graph.cast(graph.add("Div", graph.add("Sqrt", squares), root), FLOAT)
    scale = graph.add("ReduceMax", rms, whole)
    near = _near(graph, rms, scale)
    _give_ranges(graph, scale, rms=near)
    z = graph.add("Mul", groups, _inverse(graph, graph.add("Mul", near, scale)))
    first, edge, limit = gaussian_cells(bits, torch.device("cpu"))
    cell = graph.add("Add", z, graph.constant(limit, np.float32))
    cell = graph.add("Mul", cell, graph.constant(CELLS / (2 * limit), np.float32))
    most = graph.constant(CELLS - 1, np.float32)
    cell = graph.cast(graph.add("Clip", cell, graph.constant(0, np.float32), most), INT32)
    below = graph.add("Gather", graph.constant(first.numpy(), np.int32), cell)
    edges = graph.add("Gather", graph.constant(edge.numpy(), np.float32), cell)
    beyond = graph.cast(graph.add("LessOrEqual", edges, z), INT32)
    return graph.cast(graph.add("Add", below, beyond), UINT8)


def _give_ranges(graph: Graph, scale: str, **relative: str) -> None:
    flat = graph.constant([-1], np.int64)
    graph.give_output("scale", graph.add("Reshape", scale, flat), FLOAT, [1])
    for name, value in relative.items():
        half = graph.cast(graph.add("Reshape", value, flat), HALF)
        graph.give_output(name, half, HALF, ["groups"])


def _near(graph: Graph, values: str, scale: str) -> str:
    """values / scale as the nearest float16, in float32."""
    none = graph.add("Equal", scale, graph.constant(0, np.float32))
    unit = graph.add("Where", none, graph.constant(1, np.float32), scale)
    return graph.cast(graph.cast(graph.add("Div", values, unit), HALF), FLOAT)


def _relative(graph: Graph, values: str, scale: str, down: bool) -> str:
    """As `_near`, but rounded down (`down`) or up.

    ONNX has no operator for the next float16. Instead, if rounding went the other way, a little
    more than half a step is added or subtracted before rounding: a step of float16 is between
    2^-10 and 2^-11 of the value, and at least 2^-24.
    """
    near = _near(graph, values, scale)
    back = graph.add("Mul", near, scale)
    short = graph.add("Greater" if down else "Less", back, values)
    part = graph.add("Mul", graph.add("Abs", near), graph.constant(2.0**-11, np.float32))
    move = graph.add("Max", part, graph.constant(2.0**-25, np.float32))
    move = graph.add("Mul", move, graph.constant(1 + 2.0**-10, np.float32))
    moved = graph.add("Sub" if down else "Add", near, move)
    return graph.add("Where", short, graph.cast(graph.cast(moved, HALF), FLOAT), near)


def _inverse(graph: Graph, values: str) -> str:
    """1 / values; 0 for values that are too small to divide by."""
    one = graph.constant(1, np.float32)
    fine = graph.add("GreaterOrEqual", values, graph.constant(TINY, np.float32))
    inverse = graph.add("Div", one, graph.add("Where", fine, values, one))
    return graph.add("Where", fine, inverse, graph.constant(0, np.float32))


def add_rotation(graph: Graph, rows: str, width: int, seed: int) -> str:
    """Rows [n, width] rotated (see `wire.rotate`)."""
    block, overlap = layout(width)
    first, second = (one.numpy() for one in signs(seed, width, torch.float32, torch.device("cpu")))
    rows = graph.add("Mul", rows, graph.constant(first, np.float32))
    if not overlap:
        return _hadamard(graph, rows, width, block)
    axis = graph.constant([1], np.int64)
    start, end = graph.constant([0], np.int64), graph.constant([width], np.int64)
    for at, after in ((0, second), (width - block, None)):
        low, high = graph.constant([at], np.int64), graph.constant([at + block], np.int64)
        parts = [graph.add("Slice", rows, start, low, axis)] if at else []
        turned = graph.add("Slice", rows, low, high, axis)
        parts.append(_hadamard(graph, turned, block, block))
        if at + block < width:
            parts.append(graph.add("Slice", rows, high, end, axis))
        rows = graph.add("Concat", *parts, axis=1)
        if after is not None:
            rows = graph.add("Mul", rows, graph.constant(after, np.float32))
    return rows


def _hadamard(graph: Graph, rows: str, width: int, block: int) -> str:
    """Runs of `block` channels times the Hadamard matrix, as two products of small matrices."""
    inner = 1 << (block.bit_length() - 1) // 2
    outer = block // inner
    shape = graph.constant([-1, outer, inner], np.int64)
    x = graph.add("MatMul", graph.add("Reshape", rows, shape), _matrix(graph, inner))
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    x = graph.add("MatMul", x, _matrix(graph, outer))
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    return graph.add("Reshape", x, graph.constant([-1, width], np.int64))


def _matrix(graph: Graph, size: int) -> str:
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return graph.constant(matrix / size**0.5, np.float32)
