"""The pieces of a residual network: stem, blocks, and the pooling after them.

Hugging Face's own modules compute everything but the batch normalisation, whose running
statistics belong to each device's adapter. A map [B,C,S,S] crosses the cut as tokens [B,S*S,C].
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model.bank import AdapterBank
from cutlayer.model.spec import ModelSpec


class ResNet:
    """Calls the pieces of `module`, Hugging Face's classification model."""

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self.spec = spec
        self.checkpoints: AdapterBank | None = None  # a ResNet's blocks keep all activations
        self._base: Any = module.get_submodule(spec.parts.base)
        self._blocks = [module.get_submodule(spec.block_name(i)) for i in range(spec.depth)]

    def embed(self, inputs: dict[str, Tensor]) -> tuple[Tensor, None]:
        """The stem: tokens [B,T,C]; there is never a mask."""
        stem = self._base.get_submodule(self.spec.parts.embeddings[0])
        return _tokens(stem(inputs["pixel_values"])), None

    def run(self, hidden: Tensor, mask: Tensor | None, first: int, last: int) -> Tensor:
        """Blocks first ... last - 1, from tokens to tokens."""
        if first == last:
            return hidden
        maps = self._map(hidden, first)
        for block in self._blocks[first:last]:
            maps = block(maps)
        return _tokens(maps)

    def run_scored(
        self, hidden: Tensor, mask: Tensor | None, last: int, score: str
    ) -> tuple[Tensor, Tensor]:
        """Raises ModelError: nothing ranks the positions of a map."""
        raise ModelError(
            f"method.tokens.keep: {self.spec.path} {self.spec.why_all_tokens}: "
            "set method.tokens.keep to null"
        )

    def pool(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """Mean over all positions: [B,C]."""
        pooled: Tensor = self._base.pooler(self._map(hidden, self.spec.depth))
        return pooled.flatten(1)

    def _map(self, hidden: Tensor, cut: int) -> Tensor:
        """Tokens [B,T,C] at `cut` as a map [B,C,S,S]."""
        at = self.spec.map_at(cut)
        if hidden.shape[1:] != (at.tokens, at.channels):
            raise ModelError(
                f"activations: {hidden.shape[1]} tokens of width {hidden.shape[2]} are not the "
                f"{at.tokens} of {at.channels} that {self.spec.path} has at cut {cut}: "
                "let all of them cross"
            )
        maps = hidden.transpose(1, 2).reshape(len(hidden), at.channels, at.side, at.side)
        # Channels last, as the view is, the AVX2 kernels of torch 2.13 write beyond the gradient of
        # maps of few channels, and the process dies.
        return maps.contiguous()


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167) with the running statistics of a segment.

    In training (under autograd) the batch's own mean and variance normalise, and the running
    statistics move in place. Otherwise the running statistics normalise and do not move: in
    evaluation (no_grad), if the segment does not hold them (they are frozen), and if a channel has
    a single value (one sample, a map of one position), which has no variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, base: nn.BatchNorm2d, name: str, bank: AdapterBank) -> None:
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        self.register_buffer("running_mean", base.running_mean)
        self.register_buffer("running_var", base.running_var)
        self.eps = base.eps
        self.momentum = 0.1 if base.momentum is None else base.momentum
        self.key = f"{name}.running_mean"
        self.bank = bank

    def forward(self, x: Tensor) -> Tensor:
        """x [B,C,S,S] -> [B,C,S,S]."""
        (segment,) = self.bank.route
        training = (
            torch.is_grad_enabled() and self.key in segment.adapter and x.numel() > x.shape[1]
        )
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training,
            self.momentum,
            self.eps,
        )


def attach_norms(module: nn.Module, bank: AdapterBank) -> None:
    """Put a BatchNorm in place of each of torch's, under the same names."""
    for name, base in list(module.named_modules()):
        if isinstance(base, nn.BatchNorm2d):
            path, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(path), leaf, BatchNorm(base, name, bank))


def _tokens(maps: Tensor) -> Tensor:
    """A map [B,C,S,S] as tokens [B,S*S,C]."""
    return maps.flatten(2).transpose(1, 2)
