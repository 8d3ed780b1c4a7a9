"""How much an error at the cut changes what the server's blocks make of a sample: E[J^T J].

J is the Jacobian of the server's output (the logits or, where devices hold the last blocks, the
hidden states that go down to these) in one token at the cut. With v random and E[v v^T] = I, one
backward pass gives J^T v of every token, and E[J^T v v^T J] = E[J^T J] (Hutchinson 1990,
doi:10.1080/03610919008812866, for traces). The codec `klt` weights errors by it.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cutlayer.data.rows import spread
from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.seeds import torch_rng
from cutlayer.train.crossed import Crossed
from cutlayer.wire.transfer import to_device

MOST_SAMPLES = 64
"""The most samples that are run through the server's blocks: a few dozen suffice."""
_PROBES = 4
"""Random vectors a sample."""
_AT_ONCE = 8
"""The most samples of a pass, and no more than a batch has, so that it fits where training does."""

Weigh = Callable[[int, Sequence[Crossed]], Tensor]
"""Gives E[J^T J], [2, D, D], at a cut from samples that came there: see `Sensitivity`."""


class Sensitivity:
    """Weighs errors at a cut by what the blocks after it make of them.

    adapter: returns the global adapter that a round begins with.
    """

    def __init__(self, job: Job, model: CutModel, adapter: Callable[[], Adapter]) -> None:
        self._job, self._model, self._adapter = job, model, adapter

    def __call__(self, cut: int, sent: Sequence[Crossed]) -> Tensor:
        """E[J^T J] of prefix tokens (CLS, registers) and of the others, from some of the samples in
        `sent`: [2, D, D] in float64 on the CPU; zero for a kind without tokens.

        It depends on them, the adapter and the job's seed alone. Each batch has the same trace a
        sample: blocks that normalise answer most to the smallest activations, and no device is to
        have more say than its samples. Raises RunError where all is zero or not finite.
        """
        D, size = sent[0].hidden.shape[2], min(_AT_ONCE, self._job.training.batch_size)
        # A calibration surveys cuts in inference mode, whose tensors autograd does not take.
        with torch.inference_mode(False), torch.enable_grad():
            total, tokens = torch.zeros(2, D, D, dtype=torch.float64), torch.zeros(2)
            adapter = {name: self._own(name, one) for name, one in self._adapter().items()}
            for number, part in enumerate(_parts(sent, size)):
                rng = torch_rng(self._job.seed, "weighting", cut, number)
                own, counts = self._weighed(part, cut, adapter, rng)
                trace = float(own.diagonal(dim1=1, dim2=2).sum())
                if math.isfinite(trace) and trace > 0:
                    total += own * (len(part.hidden) / trace)
                    tokens += counts
        if not tokens.any():
            raise RunError(
                "method.uplink.weighting: what the model says of the first samples does not depend "
                f"on their activations at cut {cut}, or is not finite: leave it out"
            )
        return total / tokens.clamp(min=1)[:, None, None]

    def _own(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of the adapter that a pass may take: one that a pass may change is copied."""
        moves = not self._model.trained(name)  # running statistics, under autograd
        return tensor.detach().clone() if moves or tensor.is_inference() else tensor.detach()

    def _weighed(
        self, part: Crossed, cut: int, adapter: Adapter, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The sum of J^T v v^T J over prefix tokens and over others [2, D, D], and their numbers.

        Each v has a pass of its own: blocks that are computed again go backward only once.
        """
        model, D = self._model, part.hidden.shape[2]
        hidden = to_device(part.hidden, model.compute).detach().clone().requires_grad_()
        mask = None if part.mask is None else to_device(part.mask, model.compute).clone()
        valid = torch.ones_like(part.positions, dtype=torch.bool) if mask is None else mask.cpu()
        prefix = (part.positions >= 0) & (part.positions < model.spec.prefix)
        kinds = [to_device(kind & valid, model.compute) for kind in (prefix, ~prefix)]
        total = torch.zeros(2, D, D, dtype=torch.float64)
        for _ in range(_PROBES):
            output = model.answer(hidden, mask, cut, [Segment(adapter, len(hidden))])
            probe = to_device(torch.randn(output.shape, generator=rng), model.compute)
            if mask is not None and output.dim() == 3:  # an output for each token
                probe = probe * mask[:, :, None]
            (found,) = torch.autograd.grad(output, [hidden], probe.to(output))
            if model.spec.modality == "text":
                # The codec divides each token by its size, so its errors grow with it.
                found = found * hidden.detach().square().mean(2, keepdim=True).sqrt()
            for number, kind in enumerate(kinds):
                rows = found[kind].float()
                total[number] += (rows.T @ rows).to("cpu", torch.float64)
        return total, torch.tensor([float(kind.sum()) for kind in kinds])


def _parts(sent: Sequence[Crossed], size: int) -> Iterator[Crossed]:
    """At most MOST_SAMPLES samples from all over `sent`, at most `size` at once."""
    few = [sent[place] for place in spread(len(sent), MOST_SAMPLES)]
    each = -(-MOST_SAMPLES // max(1, len(few)))
    left = MOST_SAMPLES
    for one in few:
        count = min(each, len(one.hidden), left)
        left -= count
        for first in range(0, count, size):
            span = slice(first, min(first + size, count))
            mask = None if one.mask is None else one.mask[span]
            yield Crossed(one.hidden[span], mask, one.positions[span])
