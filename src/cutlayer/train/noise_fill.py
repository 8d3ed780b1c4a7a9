"""Noise in the place of what a fitted codec leaves out of the activations that a server trains on.

A codec of few bits rounds most components to 0, so what it decodes varies less than what devices
computed. An adapter that is trained on it alone does worse in the whole model, whose activations
were never rounded. So noise is added that has the covariance of the codec's own errors, drawn anew
at each visit; nothing more is sent. Audio codecs do the same for the ear (noise filling).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cutlayer.train.crossed import Crossed
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.seam import Rows
from cutlayer.wire.transfer import to_device


def error_roots(codec: KltCodec, samples: Sequence[Rows]) -> Tensor:
    """Roots of the covariance of the codec's errors, of prefix tokens and of others.

    Returns [2, D, D] in float32 on the CPU, zero for a kind without tokens; in units of the root
    mean square of each token as it came, where the basis divides tokens by their size.
    """
    head = codec.basis.head
    total = torch.zeros(2, head.width, head.width, dtype=torch.float64)
    tokens, sent, came = torch.zeros(2), 0.0, 0.0
    for rows in samples:
        values = rows.values.cpu()
        (decoded,) = codec.reconstruct([rows])
        errors = (values - decoded).double()
        if head.scaled:
            errors /= _sizes(values).double().clamp(min=1e-30)
            sent, came = sent + float(values.square().sum()), came + float(decoded.square().sum())
        first = (rows.positions >= 0) & (rows.positions < head.prefix)
        for kind, own in enumerate((errors[first], errors[~first])):
            total[kind] += own.T @ own
            tokens[kind] += len(own)
    values, axes = torch.linalg.eigh(total / tokens.clamp(min=1)[:, None, None])
    roots: Tensor = (axes * values.clamp(min=0).sqrt()[:, None, :]) @ axes.mT
    # A server knows how large a token came, which is smaller than it was sent.
    larger = (sent / came) ** 0.5 if came else 1.0
    return roots.float() * larger


def noise_filled(came: Crossed, codec: KltCodec, roots: Tensor, rng: torch.Generator) -> Tensor:
    """Decoded activations [B, T, D] with noise, but for padding. roots: see `error_roots`."""
    hidden, head = came.hidden, codec.basis.head
    noise = to_device(torch.randn(hidden.shape, generator=rng), hidden.device)
    first = (came.positions >= 0) & (came.positions < head.prefix)
    prefix, others = to_device(roots, hidden.device)
    noise = torch.where(to_device(first, hidden.device)[..., None], noise @ prefix, noise @ others)
    if head.scaled:
        noise = noise * _sizes(hidden)
    if came.mask is not None:
        noise = noise * to_device(came.mask, hidden.device)[..., None]
    return hidden + noise.to(hidden)


def _sizes(rows: Tensor) -> Tensor:
    return rows.square().mean(-1, keepdim=True).sqrt()
