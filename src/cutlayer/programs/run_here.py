"""Runs the blocks of programs in this process: for simulated devices, and to measure what they
change."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.light.graph import Compute, ReadyGraph
from cutlayer.light.passes import run_blocks
from cutlayer.model.cut import Activations, CutModel
from cutlayer.model.inputs import normalisation
from cutlayer.model.part import write_part
from cutlayer.programs.keys import probe_key
from cutlayer.programs.make import Programs, programs_of
from cutlayer.settings.precision import Precision


class BlocksHere:
    """See `train.device_blocks.DeviceBlocks`. Each program is made when it is first needed.

    job, model: whose blocks run, as they were pretrained.
    """

    def __init__(self, job: Job, model: CutModel) -> None:
        self._job, self._spec = job, model.spec
        self._place, self._dtype = model.compute, model.dtype
        self._folder = TemporaryDirectory(prefix="cutlayer-programs-")
        self._programs: dict[tuple[Precision, int], Programs] = {}
        self._ready: dict[tuple[Precision, int, bool], ReadyGraph] = {}

    def __call__(
        self, precision: Precision, cut: int, scored: bool, inputs: Mapping[str, Tensor]
    ) -> Activations:
        """See DeviceBlocks."""
        spec, mask = self._spec, None
        if spec.modality == "image":
            pixels = inputs["pixel_values"].cpu()
            scale, shift = normalisation(spec)
            # A program takes levels of 0 ... 255 and normalises them itself.
            given = {"images": ((pixels - shift) / scale).float().contiguous().numpy()}
            tokens = spec.tokens_at(cut)
        else:
            ids, attention = inputs["input_ids"].cpu(), inputs["attention_mask"].cpu()
            given = {"ids": ids.contiguous().numpy(), "attention": attention.contiguous().numpy()}
            mask, tokens = inputs["attention_mask"].bool().to(self._place), ids.shape[1]
        graph = self._graph(precision, cut, scored)
        found = run_blocks(graph, given, tokens, spec.prefix, spec.width_at(cut))
        hidden = torch.from_numpy(found["activations"])
        if not bool(torch.isfinite(hidden).all()):
            raise RunError(
                f"method.allocation.precisions: in {precision} activations at cut {cut} contain "
                "NaN, infinity or values beyond its range: leave it out"
            )
        scores = torch.from_numpy(found["scores"]).to(self._place) if scored else None
        return Activations(hidden.to(self._place, self._dtype), mask, scores)

    def _graph(self, precision: Precision, cut: int, scored: bool) -> ReadyGraph:
        ready = self._ready.get((precision, cut, scored))
        if ready is None:
            programs, key = self._of(precision, cut), probe_key(cut, scored)
            ports = key.blocks_ports(self._spec.modality == "text")
            compute = Compute(threads=torch.get_num_threads())
            ready = ReadyGraph(programs.blocks(key), programs.weights, ports, compute)
            self._ready[precision, cut, scored] = ready
        return ready

    def _of(self, precision: Precision, cut: int) -> Programs:
        """The programs of one cut, so that no later blocks are exported."""
        if (precision, cut) not in self._programs:
            folder = Path(self._folder.name) / str(cut)
            if not folder.exists():
                section = self._job.model.model_copy(update={"cut": cut})
                write_part(folder / "part", section, self._job.seed, "device")
            made = folder / precision
            self._programs[precision, cut] = programs_of(
                self._job, self._spec, folder / "part", cut, made, precision
            )
        return self._programs[precision, cut]
