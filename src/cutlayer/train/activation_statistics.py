"""What a device measures of its own activations before a round is decided."""

from collections.abc import Sequence

import torch

from cutlayer.model.bank import Segment
from cutlayer.seeds import derive
from cutlayer.train.activation_summary import ActivationStatistics, importance_of
from cutlayer.train.compute import float64
from cutlayer.train.device import Device
from cutlayer.train.pool_inputs import batch_inputs


def measure(
    devices: Sequence[Device], round: int, cut: int, scored: bool
) -> list[ActivationStatistics]:
    """Run each device's first batch of `round` through its first `cut` blocks.

    The blocks have the weights that the run started from: frozen parts keep them, and the small
    effect of adapters on the statistics is ignored. scored: whether to rank tokens.
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
            importance = importance_of(float64(activations.scores).cpu().numpy())
        spread = float(hidden.max() - hidden.min())
        found.append(ActivationStatistics(importance, spread, float(hidden.square().mean())))
    return found
