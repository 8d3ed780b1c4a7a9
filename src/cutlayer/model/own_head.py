"""The head of a language model: the checkpoint's own, frozen, with a logit for every token."""

from typing import Any

from torch import Tensor, nn

from cutlayer.model.spec import ModelSpec


class OwnHead(nn.Module):
    """Calls the head that `module`, Hugging Face's model, was loaded with."""

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        (name,) = spec.parts.head.outputs
        # In a list, the layer is not registered as a submodule here: it stays the model's.
        self._layer: list[Any] = [module.get_submodule(name)]

    def forward(self, x: Tensor) -> Tensor:
        """x [B,T,D] -> logits [B,T,V] over the vocabulary."""
        logits: Tensor = self._layer[0](x)
        return logits

    def read(self, x: Tensor) -> Tensor:
        """The input of the head, unchanged: x [B,T,D]."""
        return x
