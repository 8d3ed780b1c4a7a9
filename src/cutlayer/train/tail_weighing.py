"""How errors of what passes a tail on devices are weighed (`weighting` of method.tail_downlink and
method.tail_uplink).

Hidden states go down, and become a loss. An error e in them raises it by e^T F e / 2 in the mean, F
the Fisher information: about E[g g^T], g the gradient of the loss in a token's state (the empirical
one, arXiv 1412.1193, section 11). These gradients come back anyway.

With them the server's adapter gets the gradient J^T g, J the Jacobian of the states in the adapter.
An error e changes that by J^T e, of squared length e^T J J^T e. Where the adapter is moved by v,
random with E[v v^T] = I, the states change by J v, and E[J v v^T J^T] = E[J J^T].

Each batch counts by its number of tokens in both, whatever the size of its device's numbers: no
device has more say than its samples.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cutlayer.job import Job
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.seeds import torch_rng
from cutlayer.train.compute import float64
from cutlayer.train.fitted_basis import MOST_SAMPLES
from cutlayer.train.u_shape import to_rows
from cutlayer.train.ways import FEATURE_GRADIENTS, FEATURES

_MOVED_SAMPLES = 64
"""About how many samples of a round run through the server's blocks with moved adapters; at least
one of each device."""
_AT_ONCE = 8
"""The most of them in a pass, each with an adapter of its own."""
_PROBES = 2
"""Random moves a sample."""
_SPREAD = 0.2
"""Share of the mean of E[J J^T] that is added in every direction: it is found from some hundred
moves, fewer than there are directions. Of 0, 0.2 and 1 it left the least error in the gradients of
the server's adapter on SmolLM2-135M; on the demo's ViT 0.2 left less error than 0 did."""
_MOVE = 1e-3
"""How far a number of the adapter is moved, in units of a standard normal number: about as far as
a step of AdamW moves it, and in float32 a thousand times what rounding does."""


@dataclass(frozen=True, eq=False)
class Passed:
    """Samples of a device whose hidden states went to its tail.

    cut, hidden [B,T,D'], mask [B,T]: as they came through the cut. crossing [B,T]: the tokens whose
    states went on, None for all; positions [n]: where these stand in their samples.
    """

    device: int
    cut: int
    hidden: Tensor
    mask: Tensor | None
    crossing: Tensor | None
    positions: Tensor

    def part(self, first: int, last: int) -> "Passed":
        """The samples from `first` to before `last`."""

        def rows(count: int) -> int:
            if self.crossing is None:  # fewer than came through the cut, where blocks merge them
                return count * (len(self.positions) // len(self.hidden))
            return int(self.crossing[:count].sum())

        span, some = slice(first, last), slice(rows(first), rows(last))
        mask, crossing = (None if one is None else one[span] for one in (self.mask, self.crossing))
        hidden = self.hidden[span]
        return Passed(self.device, self.cut, hidden, mask, crossing, self.positions[some])


@dataclass
class _Moments:
    """The sum of r r^T over rows r [D] of prefix tokens, and over others, and how many there were.

    sums [2,D,D] in float64, on the CPU.
    """

    sums: Tensor | None = None
    counts: tuple[int, int] = (0, 0)

    def add(self, rows: Tensor, prefix: Tensor) -> None:
        """Count rows [n,D] in, divided by their root mean square; none where that is 0 or not
        finite. prefix [n], on the CPU: which are of prefix tokens.
        """
        size = float(rows.square().mean().sqrt())
        if not math.isfinite(size) or size == 0:
            return
        rows, prefix = rows / size, prefix.to(rows.device)
        kinds = rows[prefix], rows[~prefix]
        sums = torch.stack([float64(kind.T @ kind).cpu() for kind in kinds])
        self.sums = sums if self.sums is None else self.sums + sums
        self.counts = self.counts[0] + len(kinds[0]), self.counts[1] + len(kinds[1])

    @property
    def mean(self) -> Tensor | None:
        """[2,D,D], zero for a kind without rows; None where no rows were counted in."""
        if self.sums is None:
            return None
        return self.sums / torch.tensor(self.counts).clamp(min=1)[:, None, None]


class TailWeighing:
    """Weighs errors at the tail by what passed it in a round.

    adapter: returns the global adapter. parties: how many share in a round; None: the job's devices
    that do.
    """

    def __init__(
        self,
        job: Job,
        model: CutModel,
        adapter: Callable[[], Adapter],
        parties: int | None = None,
    ) -> None:
        self._job, self._model, self._adapter = job, model, adapter
        self._parties = parties or job.devices.per_round or job.devices.count
        self._information = _Moments()
        self._informed: Counter[int] = Counter()
        self._passed: list[Passed] = []
        self._samples: Counter[int] = Counter()

    def note(self, passed: Passed, features: Tensor, gradient: Tensor) -> None:
        """Take note of a batch; features, gradient [B,T,D]: the states and the gradient in them."""
        device, count = passed.device, len(passed.hidden)
        if FEATURES.weighs(self._job) and self._informed[device] < self._share(MOST_SAMPLES):
            self._informed[device] += count
            self._inform(passed, features, gradient)
        left = self._share(_MOVED_SAMPLES) - self._samples[device]
        if FEATURE_GRADIENTS.weighs(self._job) and left > 0:
            self._samples[device] += min(count, left)
            self._passed.append(passed.part(0, min(count, left)))

    def end(self) -> None:
        """End a round: forget what passed in it."""
        self._information = _Moments()
        self._passed.clear()
        self._informed.clear()
        self._samples.clear()

    def features(self) -> Tensor | None:
        """E[g g^T] of prefix tokens and of others: [2,D,D] in float64 on the CPU, up to a factor.

        None if no gradient came back that is not 0.
        """
        return self._information.mean

    def gradients(self) -> Tensor | None:
        """About E[J J^T] of prefix tokens and of others: [2,D,D] in float64 on the CPU, up to a
        factor. None if no states depend on the server's adapter.

        Batch normalisation takes its running statistics, as in evaluation.
        """
        moments, start = _Moments(), self._adapter()
        for number, one in enumerate(self._passed):
            rng = torch_rng(self._job.seed, "tail-weighting", number)
            for first in range(0, len(one.hidden), _AT_ONCE):
                part = one.part(first, first + _AT_ONCE)
                for _ in range(_PROBES):
                    moments.add(self._change(part, start, rng), self._prefix(part))
        found = moments.mean
        if found is None:
            return None
        means = found.diagonal(dim1=1, dim2=2).mean(1)
        return found + _SPREAD * means[:, None, None] * torch.eye(found.shape[1]).to(found)

    def _share(self, most: int) -> int:
        """Of a round's samples, how many of each device."""
        return math.ceil(most / self._parties)

    def _moved(self, cut: int) -> list[str]:
        """What of the adapter the server trains."""
        names = self._model.server_names(cut)
        start = self._adapter()
        return [name for name in names if name in start and self._model.trained(name)]

    def _inform(self, passed: Passed, features: Tensor, gradient: Tensor) -> None:
        rows = to_rows(gradient, passed.crossing).float()
        if self._model.spec.modality == "text":
            # The codec divides each token by its size, so its errors grow with it.
            states = to_rows(features, passed.crossing).float()
            rows = rows * states.square().mean(1, keepdim=True).sqrt()
        self._information.add(rows, self._prefix(passed))

    def _change(self, passed: Passed, start: Adapter, rng: torch.Generator) -> Tensor:
        """J v of the tokens that cross [n,D], up to a factor; each sample has a v of its own."""
        model, moved = self._model, self._moved(passed.cut)
        ahead: list[Segment] = []
        behind: list[Segment] = []
        for _ in range(len(passed.hidden)):
            ways = {name: torch.randn(start[name].shape, generator=rng) for name in moved}
            for side, sign in ((ahead, _MOVE), (behind, -_MOVE)):
                own = {name: start[name] + sign * way.to(start[name]) for name, way in ways.items()}
                side.append(Segment({**start, **own}, 1))
        # A difference of numbers that were rounded to bfloat16 would be rounding alone.
        with torch.no_grad(), model.unrounded():
            change = model.middle_forward(passed.hidden, passed.mask, passed.cut, ahead)
            change = change - model.middle_forward(passed.hidden, passed.mask, passed.cut, behind)
        return to_rows(change, passed.crossing)

    def _prefix(self, passed: Passed) -> Tensor:
        return (passed.positions >= 0) & (passed.positions < self._model.spec.prefix)
