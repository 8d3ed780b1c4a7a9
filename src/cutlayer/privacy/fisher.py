"""A bound on inversion that needs no attack: diagonal Fisher information leakage.

Maeng, Guo, Kariyappa and Suh 2023, arXiv 2305.04146: with Gaussian noise on what crosses, the mean
squared error of any unbiased estimate of a pixel is at least 1 / dFIL, and dFIL is the trace of the
Fisher information over the number of pixels d. Our noise is as large as a share s of a sample's
root mean square r, which depends on the image too, so that the trace has two terms:

    Tr(J J^T) / (s r)^2  +  2 k |grad log r|^2,

J being the Jacobian of the k values sent. Without noise there is no such bound.
"""

import torch
from torch import Tensor

from cutlayer.privacy.crossing import Victim
from cutlayer.privacy.inversion import sent_of
from cutlayer.seeds import torch_rng


def information(
    victim: Victim, images: Tensor, cut: int, keep: int, probes: int
) -> tuple[float, float]:
    """Both terms per pixel at s = 1, as means over some images [m, C, H, W] from 0 to 1.

    probes: random directions of values by which the trace is estimated (Hutchinson), without bias.
    """
    pixels = images.to(victim.model.compute).requires_grad_()
    sent = sent_of(victim, pixels, cut, keep)
    square = sent.square().flatten(1).mean(1)
    count = pixels[0].numel()
    rng = torch_rng(victim.job.seed, "audit", "probes", cut, keep)
    trace = torch.zeros(len(pixels), device=pixels.device)
    for _ in range(probes):
        direction = torch.randn(sent.shape, generator=rng).to(sent)
        (slope,) = torch.autograd.grad((sent * direction).sum(), [pixels], retain_graph=True)
        trace += slope.square().flatten(1).sum(1) / probes
    (size,) = torch.autograd.grad(0.5 * square.log().sum(), [pixels])
    values = sent[0].numel()
    own = trace / square.detach() / count
    by_size = 2 * values * size.square().flatten(1).sum(1) / count
    return float(own.mean()), float(by_size.mean())
