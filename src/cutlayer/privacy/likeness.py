"""How like attacked images are those that an attack made: n images [n, C, R, R], 0 to 1."""

import numpy as np
import torch
from torch import Tensor

from cutlayer.planning.leakage.record import Likeness

_LEAST_SSIM = 12
"""Pixels a side below which the window of SSIM does not fit."""


def likeness(found: Tensor, true: Tensor) -> Likeness:
    """All of it."""
    ssim = structural_similarity(found, true)
    return Likeness(
        psnr_db(found, true), None if np.isnan(ssim) else ssim, reidentified(found, true)
    )


def psnr_db(found: Tensor, true: Tensor) -> float:
    """The mean over images of 10 log10(1 / their mean squared error); 100 dB at most."""
    error = (found - true).square().flatten(1).mean(1).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())


def structural_similarity(found: Tensor, true: Tensor) -> float:
    """The mean SSIM (Wang et al. 2004) by torchmetrics; NaN where it is not installed, or where an
    image is smaller than its window.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torchmetrics":
            raise
        return float("nan")
    if true.shape[-1] < _LEAST_SSIM:
        return float("nan")
    value = structural_similarity_index_measure(found, true, data_range=1.0)
    return float(value)  # type: ignore[arg-type]  # a tuple only where the whole map is asked for


def reidentified(found: Tensor, true: Tensor) -> float:
    """The share of images found [n] that are nearest to their own among the true ones [N].

    Nearest by the correlation of pixels, so that a faint image is not nearest to a grey one. The
    first n of the true images are those that were looked for.
    """
    likest = _centred(found) @ _centred(true).T
    return float((likest.argmax(1).cpu() == torch.arange(len(found))).double().mean())


def matched(received: Tensor, computed: Tensor) -> float:
    """The share of samples received [n, T', D] that are nearest to their own among those computed
    [n, T', D], by squared distance.
    """
    distance = torch.cdist(received.flatten(1).double(), computed.flatten(1).double())
    return float((distance.argmin(1).cpu() == torch.arange(len(received))).double().mean())


def _centred(images: Tensor) -> Tensor:
    flat = images.flatten(1).double()
    flat = flat - flat.mean(1, keepdim=True)
    centred: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return centred
