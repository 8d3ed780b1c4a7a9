"""What would pass a tail on devices of samples that the server itself has, so that bases can be
fitted to it before anything does (`fit: calibration` of method.tail_downlink and tail_uplink).

The server runs the whole model on them, labels and all; devices' labels stay where they are.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cutlayer.job import Job
from cutlayer.model.bank import Segment
from cutlayer.model.lora import Adapter
from cutlayer.train.parts import Parts
from cutlayer.train.public_batch import PublicBatch
from cutlayer.train.tail_weighing import Passed, TailWeighing
from cutlayer.train.task import task_of
from cutlayer.train.u_shape import crossing_of, row_positions
from cutlayer.train.way_coding import ToFit, coded_rows
from cutlayer.train.ways import FEATURE_GRADIENTS, FEATURES, Way
from cutlayer.wire.codecs.seam import Rows
from cutlayer.wire.transfer import to_device


class OwnTail:
    """Samples of the job's `data.calibration`, as they would pass a tail in batches of a device.

    adapter: returns the present global adapter.
    """

    def __init__(
        self, job: Job, parts: Parts, public: PublicBatch, adapter: Callable[[], Adapter]
    ) -> None:
        self._job, self._parts, self._public, self._adapter = job, parts, public, adapter
        self._task = task_of(job, parts.model.spec)

    def __call__(self, ways: Sequence[Way]) -> dict[Way, ToFit]:
        """What a basis of each of these ways is to be fitted to now."""
        weigh = TailWeighing(self._job, self._parts.model, self._adapter, parties=1)
        rows: dict[Way, list[Rows]] = {way: [] for way in ways}
        for first in range(0, len(self._public.data), self._job.training.batch_size):
            passed, features, gradient = self._batch(first)
            weigh.note(passed, features, gradient)
            for way in ways:
                values = features if way == FEATURES else gradient
                rows[way].append(coded_rows(way, values, passed.crossing, passed.positions))
        metrics = {FEATURES: weigh.features, FEATURE_GRADIENTS: weigh.gradients}
        return {
            way: ToFit(rows[way], metrics[way]() if way.weighs(self._job) else None) for way in ways
        }

    def _batch(self, first: int) -> tuple[Passed, Tensor, Tensor]:
        """Some of the samples, their hidden states at the tail, and the gradient in these."""
        job, model, cut = self._job, self._parts.model, self._job.cut
        data = self._public.data
        part = data.subset(range(first, min(first + job.training.batch_size, len(data))))
        sent = self._public.sent(part, cut)
        mask = None if sent.mask is None else to_device(sent.mask, model.compute)
        goal = self._task.targets(part, self._parts.preprocess(part.inputs))
        route = [Segment(self._adapter(), len(part))]
        hidden = to_device(sent.hidden, model.compute)
        with torch.no_grad():
            features = model.middle_forward(hidden, mask, cut, route)
        features.requires_grad_()
        with torch.enable_grad():
            logits = model.tail_forward(features, mask, route, self._task.learnt([goal]))
            loss = self._task.losses(logits, [goal]).sum()
            (gradient,) = torch.autograd.grad(loss, [features])
        crossing = crossing_of(job, self._task, goal, sent.mask)
        B, T, _ = features.shape
        positions = row_positions(B, T, crossing, model.spec.prefix, selected=False)
        passed = Passed(0, cut, hidden, mask, crossing, positions)
        return passed, features.detach(), gradient
