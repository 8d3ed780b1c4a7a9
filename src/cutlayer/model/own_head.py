"""The head of a language model: the checkpoint's own, frozen, with a logit for every token."""

from typing import Any

from torch import Tensor, nn

from cutlayer.model.spec import ModelSpec


class OwnHead(nn.Module):
    """Calls the head that `module`, Hugging Face's model, was loaded with."""

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        (name,) = spec.parts.head.outputs
        # A list keeps it out of this module's own parts: it stays the model's.
        self._layer: list[Any] = [module.get_submodule(name)]

    def forward(self, x: Tensor) -> Tensor:
        """x [B,T,D] -> logits [B,T,V] over the vocabulary."""
        logits: Tensor = self._layer[0](x)
        return logits

    def read(self, x: Tensor) -> Tensor:
        """What the head reads, as it is: x [B,T,D]."""
        return x
