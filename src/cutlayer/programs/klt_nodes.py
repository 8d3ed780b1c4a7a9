"""The transform of codec `klt` as nodes of a graph; `wire.codecs.klt` computes the same in torch.

The basis is an input, so that a device takes a new one without a new program.
"""

import numpy as np

from cutlayer.programs.graph import FLOAT, INT32, Graph
from cutlayer.programs.selection import Sequence, split_prefix
from cutlayer.wire.codecs import laws
from cutlayer.wire.program_ports import LARGEST_SYMBOL


def add_klt(graph: Graph, given: Sequence, prefix: int, width: int) -> None:
    """Add the outputs prefix_symbols and other_symbols, and the inputs for a basis."""
    means = graph.take_input("means", FLOAT, ["positions", width])
    step = graph.take_input("step", FLOAT, [1])
    first, others = split_prefix(graph, given.hidden, prefix)
    first_mask = others_mask = None
    if given.mask is not None:
        first_mask, others_mask = split_prefix(graph, given.mask, prefix)
    one = graph.constant(1, np.int64)
    last = graph.add("Sub", graph.add("Shape", means, start=0, end=1), one)
    if prefix:
        places = graph.add("Min", graph.constant(np.arange(prefix), np.int64), last)
        _symbols(graph, "prefix", first, first_mask, (means, places, step), width)
    places = _places(graph, given, others, prefix, last)
    _symbols(graph, "other", others, others_mask, (means, places, step), width)


def _places(graph: Graph, given: Sequence, others: str, prefix: int, last: str) -> str:
    """The index of the basis's mean for each token behind the prefix."""
    start = graph.constant(prefix, np.int64)
    if given.kept is None:
        count = graph.add("Squeeze", graph.add("Shape", others, start=1, end=2))
        end = graph.add("Add", count, start)
        places = graph.add("Range", start, end, graph.constant(1, np.int64))
        return graph.add("Min", places, last)
    places = graph.add("Min", graph.add("Add", given.kept, start), last)
    if not given.merged:
        return places
    batch = graph.add("Shape", given.kept, start=0, end=1)
    shape = graph.add("Concat", batch, graph.constant([1], np.int64), axis=0)
    return graph.add("Concat", places, graph.add("Expand", last, shape), axis=1)


def _symbols(
    graph: Graph, name: str, hidden: str, mask: str | None, basis: tuple[str, str, str], width: int
) -> None:
    means, places, step = basis
    analysis = graph.take_input(f"{name}_analysis", FLOAT, [width, f"{name}_components"])
    rows = graph.add("Sub", hidden, graph.add("Gather", means, places))
    rows = graph.add("Reshape", rows, graph.constant([-1, width], np.int64))
    if mask is not None:
        flat = graph.add("Reshape", mask, graph.constant([-1], np.int64))
        rows = graph.add("Compress", rows, flat, axis=0)
    steps = graph.add("Div", graph.add("MatMul", rows, analysis), step)
    most = graph.constant(LARGEST_SYMBOL, np.float32)
    size = graph.add("Add", graph.add("Abs", steps), graph.constant(1 - laws.FIRST, np.float32))
    size = graph.add("Floor", graph.add("Min", size, most))
    whole = graph.cast(graph.add("Mul", graph.add("Sign", steps), size), INT32)
    graph.give_output(f"{name}_symbols", whole, INT32, [f"{name}_rows", f"{name}_components"])
