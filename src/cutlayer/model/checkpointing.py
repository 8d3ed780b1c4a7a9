"""Blocks whose inner activations are computed anew on the way back, instead of being kept.

Chen et al. 2016, arXiv 1604.06174: memory for a block's activations is needed once, not for every
block, and the forward pass is computed twice.
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
    """`block(hidden, **arguments)`, of which only the input is kept for the backward pass.

    The block is computed again with the adapters and the dropout of the first time.
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
