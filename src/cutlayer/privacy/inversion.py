"""White-box inversion: descend on the pixels until the device part gives what came.

Whoever has the weights of the device part can do this without any training. It starts from what the
decoder made, so that it shows what descending adds. Shapes: m images [m, C, H, W] from 0 to 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cutlayer.model.cut import Segment
from cutlayer.privacy.crossing import Victim

RATE = 0.02
SMOOTHNESS = 0.02
"""Weight of total variation, which keeps pixels like their neighbours, against the error."""


def invert(
    victim: Victim,
    received: Tensor,
    start: Tensor,
    size: tuple[int, int],
    cut: int,
    keep: int,
    steps: int,
) -> Tensor:
    """Images [m, C, *size] whose activations are near to those received.

    received: [m, T', D]. start: images of any size to start from. steps: of Adam.
    """  # fmt: skip
    target = received.to(victim.model.compute)
    scale = target.square().flatten(1).mean(1).clamp(min=1e-12)
    pixels = F.interpolate(start.to(target.device), size, mode="bilinear", align_corners=False)
    pixels = pixels.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=RATE)
    for _ in range(steps):
        found = sent_of(victim, pixels, cut, keep)
        missed = ((found - target).square().flatten(1).mean(1) / scale).sum()
        loss = missed + SMOOTHNESS * _variation(pixels)
        (pixels.grad,) = torch.autograd.grad(loss, [pixels])
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    return pixels.detach().cpu()


def sent_of(victim: Victim, pixels: Tensor, cut: int, keep: int) -> Tensor:
    """What crosses of images before noise and codec, [m, T', D], with the graph to the pixels."""
    inputs = victim.preprocess(255 * pixels)
    route = [Segment(victim.adapter, len(pixels))]
    score = victim.job.method.tokens.score if cut else None
    given = victim.model.device_forward(inputs, cut, route, score)
    return victim.shorten(given, keep).hidden.float()


def _variation(pixels: Tensor) -> Tensor:
    """The total variation of images, a mean over pixels, summed over images."""
    across = (pixels[..., :, 1:] - pixels[..., :, :-1]).abs().flatten(1).mean(1)
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).abs().flatten(1).mean(1)
    return (across + down).sum()
