"""What a device measures of its own activations before a round is decided."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from cutlayer.model.lora import Segment
from cutlayer.seeds import derive
from cutlayer.train.compute import float64
from cutlayer.train.device import Device
from cutlayer.train.pool import batch_inputs


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """Statistics of a device's first batch of a round.

    importance: [N + 1], f(K) of one sample: each sample's scores in descending order, the mean
    over samples, cumulative (ST-SFLora's rank-wise importance over B, arXiv 2605.26120); None
    where there is no block to score with. spread: the largest value of the activations less the
    smallest. mean_square: of their values.
    """

    importance: npt.NDArray[np.float64] | None
    spread: float
    mean_square: float


def measure(
    devices: Sequence[Device], round: int, cut: int, scored: bool
) -> list[ActivationStatistics]:
    """Run each device's first batch of `round` through its first `cut` blocks.

    The weights are those that the run started from: frozen parts keep them, and the small effect of
    adapters on the statistics is left out. scored: whether to rank tokens.
    """
    found = []
    for device in devices:
        batch = device.first_batch(round)
        start = {}
        if device.model.train == "full":
            start = device.model.new_adapter(derive(device.job.seed, "adapter"))
        with torch.no_grad():
            activations = device.model.device_forward(
                batch_inputs(device, [batch]),
                cut,
                [Segment(start, len(batch))],
                score=device.job.method.tokens.score if scored else None,
            )
        hidden = activations.hidden.float()
        if activations.mask is not None:
            hidden = hidden[activations.mask]
        importance = None
        if activations.scores is not None:
            ranked = float64(activations.scores).sort(dim=1, descending=True).values.mean(dim=0)
            importance = np.concatenate([[0.0], np.cumsum(ranked.cpu().numpy())])
        spread = float(hidden.max() - hidden.min())
        found.append(ActivationStatistics(importance, spread, float(hidden.square().mean())))
    return found
