"""Large tensors of graphs, kept once in a file beside the graphs, however many use them.

ONNX calls this external data: a graph names the file, an offset and a length. Cuts of one model
share their tensors, so that a device fetches them once.
"""

import hashlib
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

_LEAST_BYTES = 2**12
_ALIGNED = 64


class WeightsFile:
    """The file `path`; an existing one is replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, int] = {}
        self._size = 0
        path.write_bytes(b"")

    def fill(self, model: onnx.ModelProto) -> None:
        """Put every large tensor of a graph into the file. Raises OSError."""
        with self.path.open("ab") as file:
            for tensor in model.graph.initializer:
                content = numpy_helper.to_array(tensor).tobytes()
                key = hashlib.sha256(content).hexdigest()
                if len(content) < _LEAST_BYTES or key in self._places:
                    continue
                file.write(bytes(-self._size % _ALIGNED))
                self._size += -self._size % _ALIGNED
                file.write(content)
                self._places[key] = self._size
                self._size += len(content)

    def take_from(self, model: onnx.ModelProto) -> None:
        """Let a graph read the tensors that the file holds from it; the rest stays in the graph."""
        for tensor in model.graph.initializer:
            content = numpy_helper.to_array(tensor).tobytes()
            if len(content) < _LEAST_BYTES:
                continue
            place = self._places.get(hashlib.sha256(content).hexdigest())
            if place is None:
                continue
            tensor.ClearField("raw_data")
            for values in ("float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(values)
            tensor.data_location = TensorProto.EXTERNAL
            for name, value in (
                ("location", self.path.name),
                ("offset", str(place)),
                ("length", str(len(content))),
            ):
                entry = tensor.external_data.add()
                entry.key, entry.value = name, value
