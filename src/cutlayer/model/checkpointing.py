"""Blocks that compute their inner activations again in the backward pass instead of keeping them.

Chen et al. 2016, arXiv 1604.06174: only the activations of one block at a time are in memory, and
the forward pass is computed twice.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cutlayer.model.bank import AdapterBank


def run_checkpointed(
    bank: AdapterBank, block: nn.Module, hidden: Tensor, arguments: dict[str, Any]
) -> Any:
    """`block(hidden, **arguments)`, which keeps only its input for the backward pass.

    There the block is computed again, with the same adapters and dropout masks.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        # As at the block's entry: its layers count their calls anew.
        again = replace(bank.now, calls=bank.now.calls.copy())
        return nullcontext(), bank.passing(again)

    return checkpoint(
        block,
        hidden,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=contexts,
        **arguments,
    )
