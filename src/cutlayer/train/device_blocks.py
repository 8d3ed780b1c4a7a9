"""A device's frozen blocks in other numbers than float32, run by whoever has programs for them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from cutlayer.errors import RunError
from cutlayer.model.cut import Activations
from cutlayer.settings.precision import Precision


class DeviceBlocks(Protocol):
    """Runs the first blocks of a model as light devices do (programs/run_here.py)."""

    def __call__(
        self, precision: Precision, cut: int, scored: bool, inputs: Mapping[str, Tensor]
    ) -> Activations:
        """What a device computes of one batch; `inputs` as of `CutModel.device_forward`.

        scored: tokens are ranked, by the job's score. Raises ModelError or RunError.
        """
        ...


def run_in(
    precision: Precision,
    blocks: DeviceBlocks | None,
    cut: int,
    scored: bool,
    inputs: Mapping[str, Tensor],
    sizes: Sequence[int],
) -> Activations:
    """What devices compute in `precision` of their batches, which `inputs` holds one after another.

    sizes: samples of each. Each device runs its own batch, since int8 quantises what is computed
    together by its largest value. Raises RunError without `blocks`, and as they do.
    """
    if blocks is None:
        raise RunError(
            f"method.allocation.precisions: this process has no programs that compute in "
            f"{precision}: take float32 here"
        )
    found, start = [], 0
    for size in sizes:
        part = {name: value[start : start + size] for name, value in inputs.items()}
        if size:
            found.append(blocks(precision, cut, scored, part))
        start += size
    masks = [one.mask for one in found if one.mask is not None]
    scores = [one.scores for one in found if one.scores is not None]
    return Activations(
        torch.cat([one.hidden for one in found]),
        torch.cat(masks) if masks else None,
        torch.cat(scores) if scores else None,
    )
