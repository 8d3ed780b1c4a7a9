"""Adds nodes to an ONNX graph, one line each, and gives them names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
"""The first with GELU as one operator."""
_IR = 10
"""The version of ONNX's file format, which onnxruntime knows since 1.18."""

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE
INT32, INT64, UINT8, BOOL = (
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.BOOL,
)
Dims = Sequence[int | str]


class Graph:
    """A model that is being extended. Values are named by strings, as in ONNX."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._count = 0

    @classmethod
    def empty(cls) -> "Graph":
        """A graph with nothing in it."""
        imports = [helper.make_opsetid("", OPSET)]
        inside = helper.make_graph([], "main", [], [])
        return cls(helper.make_model(inside, opset_imports=imports, ir_version=_IR))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        (found,) = self.add_many(operator, 1, *inputs, **attributes)
        return found

    def add_many(
        self, operator: str, outputs: int, *inputs: str, **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with several outputs; returns their names."""
        names = tuple(self._name() for _ in range(outputs))
        node = helper.make_node(operator, list(inputs), list(names), **attributes)
        self.model.graph.node.append(node)
        return names

    def constant(self, values: Any, dtype: Any) -> str:
        """Add a constant tensor; returns its name."""
        name = self._name()
        array: NDArray[Any] = np.ascontiguousarray(np.asarray(values, dtype))
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def cast(self, value: str, kind: int) -> str:
        """The value in another type."""
        return self.add("Cast", value, to=kind)

    def take_input(self, name: str, kind: int, dims: Dims) -> str:
        """Add an input to the graph; returns its name."""
        self.model.graph.input.append(helper.make_tensor_value_info(name, kind, list(dims)))
        return name

    def give_output(self, name: str, value: str, kind: int, dims: Dims) -> None:
        """Add an output to the graph, called `name`."""
        node = helper.make_node("Identity", [value], [name])
        self.model.graph.node.append(node)
        self.model.graph.output.append(helper.make_tensor_value_info(name, kind, list(dims)))

    def order(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Put inputs and outputs in this order; all of them must be there, and no others."""
        graph = self.model.graph
        for held, names in ((graph.input, inputs), (graph.output, outputs)):
            by_name = {one.name: one for one in held}
            assert set(by_name) == set(names), (sorted(by_name), names)
            ordered = [by_name[name] for name in names]
            del held[:]
            held.extend(ordered)

    def _name(self) -> str:
        self._count += 1
        return f"cutlayer_{self._count}"
