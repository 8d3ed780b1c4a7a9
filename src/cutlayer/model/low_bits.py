"""Frozen linear layers whose weights lie in 4 or 8 bits, packed by bitsandbytes.

A weight is unpacked for each product, forward and backward, and freed after it: only the packed
numbers stay in memory. 4 bits use the levels of NF4 (QLoRA, arXiv 2305.14314), 8 bits blockwise
dynamic levels (arXiv 2110.02861). Each 64 weights share a float32 scale.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model.spec import SHARE_A_SCALE

LowBits = Literal[4, 8]


class LowBitLinear(nn.Module):
    """The linear layer `base` with a weight that is rounded to few bits.

    transposed: the weight of `base` is [inputs, outputs] (transformers' Conv1D).
    """

    packed: Tensor
    scales: Tensor
    levels: Tensor

    def __init__(self, base: nn.Module, bits: LowBits, transposed: bool) -> None:
        super().__init__()
        weight, bias = base.weight, base.bias
        assert isinstance(weight, Tensor)
        held = weight.detach().float()
        held = held.t().contiguous() if transposed else held
        self.bits, self.shape = bits, tuple(held.shape)
        self.bias: Any = bias  # the same parameter, which may be filled later, or None
        packed, scales, levels = _pack(held, bits)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("levels", levels, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The rounded weight [outputs, inputs] in float32, unpacked at each call."""
        functional, shape = _functional(), torch.Size(self.shape)
        if self.bits == 4:
            state = functional.QuantState(
                absmax=self.scales, shape=shape, code=self.levels, blocksize=SHARE_A_SCALE,
                quant_type="nf4", dtype=torch.float32,
            )  # fmt: skip
            unpacked: Tensor = functional.dequantize_4bit(self.packed, state)
            return unpacked
        state = functional.QuantState(
            absmax=self.scales, code=self.levels, blocksize=SHARE_A_SCALE, dtype=torch.float32
        )
        whole: Tensor = functional.dequantize_blockwise(self.packed, state)
        return whole.view(shape)

    def forward(self, x: Tensor) -> Tensor:
        """x [B,...,in] -> [B,...,out]."""
        y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    """x W^T of a frozen W; keeps neither x nor the unpacked W for the backward pass."""

    @staticmethod
    def forward(context: Any, x: Tensor, layer: LowBitLinear) -> Tensor:
        context.layer, context.dtype = layer, x.dtype
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        weight = context.layer.weight.to(gradient.dtype)
        return (gradient @ weight).to(context.dtype), None


def check_low_bits(device: torch.device) -> None:
    """Raise ModelError if weights in few bits cannot be unpacked on this torch device."""
    try:
        layer = LowBitLinear(nn.Linear(SHARE_A_SCALE, SHARE_A_SCALE), 4, False).to(device)
        works = bool(layer(torch.ones(1, SHARE_A_SCALE, device=device)).isfinite().all())
    except (RuntimeError, TypeError, ValueError, AttributeError):
        works = False
    if not works:
        raise ModelError(
            f"model.frozen_bits: bitsandbytes unpacks no weights on {device.type!r} here: take 32, "
            "or another training.compute"
        )


def _pack(weight: Tensor, bits: LowBits) -> tuple[Tensor, Tensor, Tensor]:
    """The packed numbers, a scale for each block, and the level that each code stands for."""
    functional = _functional()
    if bits == 4:
        packed, state = functional.quantize_4bit(weight, blocksize=SHARE_A_SCALE, quant_type="nf4")
    else:
        packed, state = functional.quantize_blockwise(weight, blocksize=SHARE_A_SCALE)
    return packed, state.absmax, state.code


def _functional() -> Any:
    """bitsandbytes' functions. Raises ModelError where it is not installed."""
    try:
        from bitsandbytes import functional
    except ImportError:
        raise ModelError(
            "model.frozen_bits: weights in 4 or 8 bits need bitsandbytes, which is not installed: "
            "pip install 'cutlayer[lowbits]', or take 32"
        ) from None
    return functional
