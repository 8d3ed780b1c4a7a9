"""Tokens that both sides know by the labels: a label names the token that stands after its own.

A language model's labels go up beside its activations, so the server knows the tokens of an answer.
A fitted codec can have a mean for each of them in place of one for each position (see
`headers.TokenBasisHeader`), and then says only by how much a token differs from its like.
"""

import torch
from torch import Tensor

from cutlayer.wire.codecs.seam import MERGED


def known_tokens(labels: Tensor, mask: Tensor | None, num_classes: int, classes: int) -> Tensor:
    """The class [B, T] of each token that the labels name, `MERGED` for one that they do not.

    labels: [B, T] int64 on the CPU, the number of the token after each, or the last of the
    `num_classes` labels where none is told. mask: [B, T] bool on the CPU, False at padding, whose
    labels are not sent and name nothing; None without padding. classes: of tokens; a class is a
    token's number modulo `classes`.
    """
    none = num_classes - 1
    told = labels if mask is None else labels.masked_fill(~mask, none)
    before = told[:, :-1]
    named = torch.where(before == none, MERGED, before % classes)
    return torch.nn.functional.pad(named, (1, 0), value=MERGED)
