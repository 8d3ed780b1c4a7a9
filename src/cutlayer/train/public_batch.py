"""Samples that the server itself has and that no device trains on: a basis can be fitted to them
before devices send anything.
"""

from collections.abc import Callable
from functools import cached_property

import torch

from cutlayer.data.dataset import Dataset
from cutlayer.data.rows import spread
from cutlayer.data.sources import load_calibration
from cutlayer.job import Job
from cutlayer.model.bank import Segment
from cutlayer.model.family import Modality
from cutlayer.model.framing import fit_for
from cutlayer.model.lora import Adapter
from cutlayer.train.crossed import Crossed, crossed
from cutlayer.train.parts import Parts
from cutlayer.train.read_conditions import token_classes
from cutlayer.train.task import task_of
from cutlayer.wire.places import find_places

MOST: dict[Modality, int] = {"image": 64, "text": 256}
"""How many samples are taken, from all over. Of images a few dozen suffice. SmolLM2-135M's texts of
E2E with known tokens took 89 to 115 % of the bits asked for where the basis was fitted to 64, and
101 to 103 % where to 256 (three draws of each)."""


class PublicBatch:
    """Samples of the job's `data.calibration`, as devices of any cut would send them.

    adapter: returns the present global adapter, with which devices begin their round.
    """

    def __init__(self, job: Job, parts: Parts, adapter: Callable[[], Adapter]) -> None:
        self._job, self._parts, self._adapter = job, parts, adapter

    @cached_property
    def data(self) -> Dataset:
        """The samples."""
        held = load_calibration(self._job.data, self._job.seed, fit_for(self._parts.model.spec))
        return held.subset(spread(len(held), MOST[self._parts.model.spec.modality]))

    def at(self, cut: int) -> Crossed:
        """The samples after the first `cut` blocks, with all tokens."""
        return self.sent(self.data, cut)

    def sent(self, data: Dataset, cut: int) -> Crossed:
        """As `at`, of some of the samples."""
        model = self._parts.model
        inputs = self._parts.preprocess(data.inputs)
        # Frozen devices run their blocks as they were pretrained.
        adapter = {} if self._job.method.device == "frozen" else self._adapter()
        with torch.no_grad():
            given = model.device_forward(
                {name: tensor.to(model.compute) for name, tensor in inputs.items()},
                cut,
                [Segment(adapter, len(data))],
                score=None,
            )
        hidden = given.hidden.float().cpu()
        mask = None if given.mask is None else given.mask.cpu()
        if classes := token_classes(self._job):
            task = task_of(self._job, model.spec)
            message = task.message(0, 0, 0, hidden, mask, task.targets(data, inputs))
            return crossed(message, model.spec.prefix, None, classes)
        return Crossed(hidden, mask, find_places(hidden, None))
