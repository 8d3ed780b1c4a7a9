"""How errors of what passes a tail on devices are weighed (`weighting` of method.tail_downlink and
method.tail_uplink).

Hidden states go down, and become a loss. An error e in them raises it by e^T F e / 2 in the mean, F
the Fisher information: about E[g g^T], g the gradient of the loss in a token's state (the empirical
one, arXiv 1412.1193, section 11). These gradients come back anyway.

With them the server's adapter gets the gradient J^T g, J the Jacobian of the states in the adapter.
An error e changes that by J^T e, of squared length e^T J J^T e. Where the adapter is moved by v,
random with E[v v^T] = I, the states change by J v, and E[J v v^T J^T] = E[J J^T].
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.seeds import torch_rng
from cutlayer.train.compute import float64
from cutlayer.train.u_shape import to_rows
from cutlayer.train.ways import FEATURE_GRADIENTS, FEATURES

MOST_SAMPLES = 64
"""The most samples that are run through the server's blocks with moved adapters."""
_PROBES = 2
"""Random moves a sample."""
_SPREAD = 0.2
"""Share of the mean of E[J J^T] that is added in every direction: it is found from some hundred
moves, fewer than there are directions. Of 0, 0.2 and 1 it left the least error in the server's
steps on SmolLM2-135M, and on the demo's ViT less than 0."""
_MOVE = 1e-3
"""How far a number of the adapter is moved, in units of a standard normal number: about as far as
a step of AdamW moves it, and in float32 a thousand times what rounding does."""


@dataclass(frozen=True, eq=False)
class Passed:
    """A device's batch whose hidden states went to its tail.

    cut, hidden [B,T,D'], mask [B,T]: as it came through the cut. crossing [B,T]: the tokens whose
    states went on, None for all; positions [n]: where these stand in their samples.
    """

    device: int
    cut: int
    hidden: Tensor
    mask: Tensor | None
    crossing: Tensor | None
    positions: Tensor


@dataclass
class _Moments:
    """The sum of r r^T over rows r [D] of prefix tokens, and over others, and how many there were.

    sums [2,D,D] in float64, on the CPU.
    """

    sums: Tensor | None = None
    counts: tuple[int, int] = (0, 0)

    def add(self, rows: Tensor, prefix: Tensor) -> None:
        """Count rows [n,D] in; prefix [n]: which are of prefix tokens."""
        kinds = rows[prefix], rows[~prefix]
        sums = torch.stack([kind.T @ kind for kind in kinds])
        self.sums = sums if self.sums is None else self.sums + sums
        self.counts = self.counts[0] + len(kinds[0]), self.counts[1] + len(kinds[1])

    @property
    def mean(self) -> Tensor | None:
        """[2,D,D], zero for a kind without rows; None where all is zero or not finite."""
        if self.sums is None or not bool(self.sums.any()) or not bool(self.sums.isfinite().all()):
            return None
        return self.sums / torch.tensor(self.counts).clamp(min=1)[:, None, None]


class TailWeighing:
    """Weighs errors at the tail by what passed it in a round.

    adapter: returns the global adapter that the round began with.
    """

    def __init__(self, job: Job, model: CutModel, adapter: Callable[[], Adapter]) -> None:
        self._job, self._model, self._adapter = job, model, adapter
        self._information = _Moments()
        self._passed: list[Passed] = []
        self._samples: Counter[int] = Counter()

    def note(self, passed: Passed, features: Tensor, gradient: Tensor) -> None:
        """Take note of a batch; features, gradient [B,T,D]: the states and the gradient in them."""
        if FEATURES.weighs(self._job):
            self._inform(passed, features, gradient)
        devices = self._job.devices
        share = math.ceil(MOST_SAMPLES / (devices.per_round or devices.count))
        if FEATURE_GRADIENTS.weighs(self._job) and self._samples[passed.device] < share:
            self._samples[passed.device] += len(passed.hidden)
            self._passed.append(passed)

    def end(self) -> None:
        """End a round: forget what passed in it."""
        self._information = _Moments()
        self._passed.clear()
        self._samples.clear()

    def features(self) -> Tensor | None:
        """E[g g^T] of prefix tokens and of others: [2,D,D] in float64 on the CPU, up to a factor.

        None if no gradient came back. Raises RunError where all are zero.
        """
        if self._information.sums is None:
            return None
        found = self._information.mean
        if found is None:
            raise RunError(
                "method.tail_downlink.weighting: the loss does not depend on what goes down to the "
                "last blocks: leave it out"
            )
        return found

    def gradients(self) -> Tensor:
        """About E[J J^T] of prefix tokens and of others: [2,D,D] in float64 on the CPU.

        It depends on the samples that passed, the adapter and the job's seed alone. Raises RunError
        where all is zero or not finite.
        """
        moments, start = _Moments(), self._adapter()
        for number, one in enumerate(self._passed):
            rng = torch_rng(self._job.seed, "tail-weighting", number)
            for _ in range(_PROBES):
                moments.add(self._change(one, start, rng), self._prefix(one))
        found = moments.mean
        if found is None:
            raise RunError(
                "method.tail_uplink.weighting: what goes down to the last blocks does not depend "
                "on the server's adapter, or is not finite: leave it out"
            )
        means = found.diagonal(dim1=1, dim2=2).mean(1)
        return found + _SPREAD * means[:, None, None] * torch.eye(found.shape[1]).to(found)

    def _inform(self, passed: Passed, features: Tensor, gradient: Tensor) -> None:
        rows = float64(to_rows(gradient, passed.crossing)).cpu()
        rows = rows / (float(rows.square().mean().sqrt()) or 1.0)
        if self._model.spec.modality == "text":
            # The codec divides each token by its size, so its errors grow with it.
            states = float64(to_rows(features, passed.crossing)).cpu()
            rows = rows * states.square().mean(1, keepdim=True).sqrt()
        self._information.add(rows, self._prefix(passed))

    def _change(self, passed: Passed, start: Adapter, rng: torch.Generator) -> Tensor:
        """J v of a batch's tokens that cross [n,D]; each sample has a v of its own."""
        model = self._model
        moved = [
            name for name in model.server_names(passed.cut) if name in start and model.trained(name)
        ]
        ahead: list[Segment] = []
        behind: list[Segment] = []
        for _ in range(len(passed.hidden)):
            ways = {name: torch.randn(start[name].shape, generator=rng) for name in moved}
            for side, sign in ((ahead, _MOVE), (behind, -_MOVE)):
                # Copies, since running statistics move in a forward pass.
                adapter = {name: tensor.detach().clone() for name, tensor in start.items()}
                for name, way in ways.items():
                    adapter[name] += sign * way.to(adapter[name])
                side.append(Segment(adapter, 1))
        hidden = passed.hidden.detach()
        # A difference of numbers that were rounded to bfloat16 would be rounding alone.
        with torch.no_grad(), model.unrounded():
            change = model.middle_forward(hidden, passed.mask, passed.cut, ahead)
            change = change - model.middle_forward(hidden, passed.mask, passed.cut, behind)
        return float64(to_rows(change, passed.crossing)).cpu() / (2 * _MOVE)

    def _prefix(self, passed: Passed) -> Tensor:
        return (passed.positions >= 0) & (passed.positions < self._model.spec.prefix)
