"""Makes programs of light devices when they are needed, and keeps them.

A program is its blocks, exported once and kept in the cache for later runs, and its ending, which
selects tokens and encodes them and is made in milliseconds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from cutlayer import __version__
from cutlayer.files import cache_folder, write_atomically
from cutlayer.fingerprint import of_file, of_parts
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.spec import ModelSpec
from cutlayer.model.weights import load_model
from cutlayer.programs import selection
from cutlayer.programs.core import export_core
from cutlayer.programs.graph import BOOL, FLOAT, INT64, Graph
from cutlayer.programs.klt_nodes import add_klt
from cutlayer.programs.quantizer import add_quantizer
from cutlayer.programs.weights_file import WeightsFile
from cutlayer.seeds import derive
from cutlayer.settings.precision import Precision
from cutlayer.wire.program_ports import ProgramKey

Load = Callable[[torch.dtype], CutModel]
"""A function that loads the device's part up to the latest cut, on the CPU, in a dtype."""

WEIGHTS = "weights.bin"
_EXPORTER = 3
"""Version of the export; raised when the export changes, so that old cache files are not used."""


class Programs:
    """The programs of one model in one precision, as files of `folder`.

    load: loads the device's part. files: of that part; their hashes name entries of the cache.
    reach: the latest cut that is possible. score: the score that ranks tokens. rotation: the seed
    of a quantiser that rotates. weights_name: of the file of large tensors.
    """

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        load: Load,
        files: Sequence[Path],
        reach: int,
        score: str,
        precision: Precision,
        rotation: int,
        weights_name: str = WEIGHTS,
    ) -> None:
        self.folder, self.precision = folder, precision
        self._spec, self._load, self._files = spec, load, files
        self._reach, self._score, self._rotation = reach, score, rotation
        self._weights_name = weights_name
        self._model: CutModel | None = None
        self._made: dict[object, Path] = {}
        self._weights: WeightsFile | None = None

    @property
    def weights(self) -> Path:
        """The file of large tensors that all programs share; it is made at the first call."""
        return self._weights_file().path

    def blocks(self, key: ProgramKey) -> Path:
        """The graph of a program's blocks, which names `weights`, in the same folder.

        Raises ModelError if the blocks cannot be exported, OSError if it cannot be written.
        """
        return self._kept(
            ("blocks", key.cut, key.ranks), lambda: self._with_weights(key.cut, key.ranks)
        )

    def ending(self, key: ProgramKey) -> Path:
        """The graph of a program's ending. Raises OSError where it cannot be written."""
        return self._kept(("ending", key), lambda: self._ending(key))

    def whole(self, key: ProgramKey) -> Path:
        """Blocks and ending as one graph, which names `weights`; key: not scored. Raises as
        `blocks` does."""
        return self._kept(("whole", key), lambda: self._whole(key))

    def _kept(self, named: tuple[object, ...], make: Callable[[], onnx.ModelProto]) -> Path:
        """The file of a graph, made at the first call."""
        if named not in self._made:
            path = self.folder / f"{of_parts(self.precision, *named)[:16]}.onnx"
            write_atomically(path, make().SerializeToString(deterministic=True))
            self._made[named] = path
        return self._made[named]

    def _with_weights(self, cut: int, scored: bool) -> onnx.ModelProto:
        """The blocks, whose large tensors are in the file of weights."""
        weights = self._weights_file()
        model = self._core(cut, scored)
        weights.take_from(model)
        return model

    def _ending(self, key: ProgramKey) -> onnx.ModelProto:
        graph, spec = Graph.empty(), self._spec
        text = spec.modality == "text"
        graph.take_input("activations", FLOAT, ["batch", "tokens", spec.width_at(key.cut)])
        if key.selects:
            graph.take_input("scores", FLOAT, ["batch", "candidates"])
        if text:
            graph.take_input("attention", INT64, ["batch", "tokens"])
        self._finish(graph, key)
        graph.order(*key.ending_ports(text, spec.prefix))
        return graph.model

    def _whole(self, key: ProgramKey) -> onnx.ModelProto:
        model, spec = self._with_weights(key.cut, key.ranks), self._spec
        del model.graph.output[:]
        graph = Graph(model)
        self._finish(graph, key)
        text = spec.modality == "text"
        graph.order(key.inputs(text, spec.prefix), key.outputs(text, spec.prefix))
        return model

    def _weights_file(self) -> WeightsFile:
        if self._weights is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            weights = WeightsFile(self.folder / self._weights_name)
            weights.fill(self._core(self._reach, False))
            self._weights = weights
        return self._weights

    def _core(self, cut: int, scored: bool) -> onnx.ModelProto:
        """The blocks without further nodes: from the cache, or exported and put there."""
        score = self._score if scored else None
        hashes = sorted(f"{path.name} {of_file(path)}" for path in self._files)
        spec = self._spec
        made_by = (_EXPORTER, __version__, torch.__version__, onnx.__version__)
        name = of_parts(
            *made_by, *hashes, spec.image_size, spec.max_tokens, cut, score, self.precision
        )
        kept = cache_folder() / "programs" / f"{name[:32]}.onnx"
        if not kept.exists():
            core = export_core(self._loaded(), cut, score, self.precision)
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, core.SerializeToString(deterministic=True))
        return onnx.load(str(kept))

    def _loaded(self) -> CutModel:
        if self._model is None:
            half = self.precision == "float16"
            self._model = self._load(torch.float16 if half else torch.float32)
        return self._model

    def _finish(self, graph: Graph, key: ProgramKey) -> None:
        """Add the ending to a graph that has activations, and scores and attention where due."""
        spec = self._spec
        prefix, width = spec.prefix, spec.width_at(key.cut)
        mask = graph.cast("attention", BOOL) if spec.modality == "text" else None
        tokens = selection.Sequence("activations", mask)
        if key.selects:
            keep = graph.take_input("keep", INT64, [1])
            tokens = selection.add_selection(graph, tokens, "scores", keep, prefix, key.merges)
            assert tokens.kept is not None
            graph.give_output("kept", tokens.kept, INT64, ["batch", "keep"])
        energy = graph.add("ReduceSumSquare", tokens.hidden, keepdims=0)
        flat = graph.constant([-1], np.int64)
        graph.give_output("energy", graph.add("Reshape", energy, flat), FLOAT, [1])
        if tokens.mask is not None:
            graph.give_output("mask", tokens.mask, BOOL, ["batch", "sent"])
        if key.coding.kind == "floats":
            graph.give_output("hidden", tokens.hidden, FLOAT, ["batch", "sent", width])
        elif key.coding.kind == "levels":
            rows = graph.add("Reshape", tokens.hidden, graph.constant([-1, width], np.int64))
            if tokens.mask is not None:
                valid = graph.add("Reshape", tokens.mask, flat)
                rows = graph.add("Compress", rows, valid, axis=0)
            add_quantizer(graph, rows, width, key.coding, self._rotation)
        else:
            add_klt(graph, tokens, prefix, width)


def programs_of(
    job: Job,
    spec: ModelSpec,
    part: Path,
    reach: int,
    folder: Path,
    precision: Precision,
    weights_name: str = WEIGHTS,
) -> Programs:
    """The programs of a job's devices. part: the folder of their part up to the cut `reach`;
    folder: where programs are written, weights_name: their file of large tensors."""
    model = job.model.model_copy(update={"path": str(part), "weights": "pretrained", "cut": reach})

    def load(dtype: torch.dtype) -> CutModel:
        return load_model(model, spec.num_classes, job.seed, "device", dtype)

    files = sorted(path for path in part.iterdir() if path.is_file())
    rotation = derive(job.seed, "rotation")
    score = job.method.tokens.score
    return Programs(folder, spec, load, files, reach, score, precision, rotation, weights_name)
