"""Makes programs of light devices when they are needed, and keeps them.

The blocks of a program are exported once and kept in the cache for later runs; the nodes that
select and encode tokens are added in milliseconds.
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
from cutlayer.wire.program_ports import Precision, ProgramKey

Load = Callable[[torch.dtype], CutModel]
"""A function that loads the device's part up to the latest cut, on the CPU, in a dtype."""

WEIGHTS = "weights.bin"
_EXPORTER = 1
"""Version of the export; it is raised when the export changes, so that old cache files are not
used."""


class Programs:
    """The programs of one model in one precision, as files of `folder`.

    load: loads the device's part. files: of that part; their hashes name entries of the cache.
    reach: the latest cut that is possible. score: the score that ranks tokens. rotation: the seed
    of a quantiser that rotates.
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
    ) -> None:
        self.folder, self.precision = folder, precision
        self._spec, self._load, self._files = spec, load, files
        self._reach, self._score, self._rotation = reach, score, rotation
        self._model: CutModel | None = None
        self._made: dict[ProgramKey, Path] = {}
        self._weights: WeightsFile | None = None

    @property
    def weights(self) -> Path:
        """The file of large tensors that all programs share; it is made at the first call."""
        return self._weights_file().path

    def program(self, key: ProgramKey) -> Path:
        """The graph of a program, which names `weights`, in the same folder.

        Raises ModelError if the blocks cannot be exported, OSError if it cannot be written.
        """
        if key not in self._made:
            weights = self._weights_file()
            model = self._core(key.cut, key.scored or key.selects)
            self._finish(model, key)
            weights.take_from(model)
            path = self.folder / f"{of_parts(self.precision, key)[:16]}.onnx"
            write_atomically(path, model.SerializeToString(deterministic=True))
            self._made[key] = path
        return self._made[key]

    def _weights_file(self) -> WeightsFile:
        if self._weights is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            weights = WeightsFile(self.folder / WEIGHTS)
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

    def _finish(self, model: onnx.ModelProto, key: ProgramKey) -> None:
        """Add the nodes behind the blocks, and put inputs and outputs in their order."""
        graph, spec = Graph(model), self._spec
        prefix, width = spec.prefix, spec.width_at(key.cut)
        text = spec.modality == "text"
        del model.graph.output[:]
        mask = graph.cast("attention", BOOL) if text else None
        tokens = selection.Sequence("hidden", mask)
        if key.scored:
            graph.expose("scores", FLOAT, ["batch", "candidates"])
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
            if tokens.hidden == "hidden":
                graph.expose("hidden", FLOAT, ["batch", "sent", width])
            else:
                graph.rename("hidden", "before_selection")
                graph.give_output("hidden", tokens.hidden, FLOAT, ["batch", "sent", width])
        elif key.coding.kind == "levels":
            rows = graph.add("Reshape", tokens.hidden, graph.constant([-1, width], np.int64))
            if tokens.mask is not None:
                valid = graph.add("Reshape", tokens.mask, flat)
                rows = graph.add("Compress", rows, valid, axis=0)
            add_quantizer(graph, rows, width, key.coding, self._rotation)
        else:
            add_klt(graph, tokens, prefix, width)
        graph.order(key.inputs(text, prefix), key.outputs(text, prefix))


def programs_of(
    job: Job, spec: ModelSpec, part: Path, reach: int, folder: Path, precision: Precision
) -> Programs:
    """The programs of a job's devices. part: the folder of their part up to the cut `reach`;
    folder: where programs are written."""
    model = job.model.model_copy(update={"path": str(part), "weights": "pretrained", "cut": reach})

    def load(dtype: torch.dtype) -> CutModel:
        return load_model(model, spec.num_classes, job.seed, "device", dtype)

    files = sorted(path for path in part.iterdir() if path.is_file())
    rotation = derive(job.seed, "rotation")
    score = job.method.tokens.score
    return Programs(folder, spec, load, files, reach, score, precision, rotation)
