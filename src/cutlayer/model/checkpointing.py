"""Blocks whose inner activations are computed anew on the way back, instead of being kept.

Chen et al. 2016, arXiv 1604.06174: memory for a block's activations is needed once, not for every
block, and the forward pass is computed twice.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cutlayer.model.lora import AdapterBank, Segment


def run_checkpointed(
    bank: AdapterBank, block: nn.Module, hidden: Tensor, arguments: dict[str, Any]
) -> Any:
    """`block(hidden, **arguments)`, of which only the input is kept for the backward pass.

    The block is computed again with the adapters and the dropout of the first time.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        states = [None if one.rng is None else one.rng.get_state() for one in bank.route]
        return nullcontext(), _again(bank, states)

    return checkpoint(
        block,
        hidden,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=contexts,
        **arguments,
    )


def _again(bank: AdapterBank, states: list[Tensor | None]) -> AbstractContextManager[None]:
    """The route of now, with generators as they are now, whenever it is entered."""
    route, runs = bank.route, bank.runs

    @contextmanager
    def restored() -> Iterator[None]:
        before = bank.route, bank.runs
        pairs = zip(route, states, strict=True)
        bank.route = tuple(_rewound(segment, state) for segment, state in pairs)
        bank.runs = runs
        try:
            yield
        finally:
            bank.route, bank.runs = before

    return restored()


def _rewound(segment: Segment, state: Tensor | None) -> Segment:
    """The segment with a generator of its own, in a state of before."""
    if segment.rng is None or state is None:
        return segment
    rng = torch.Generator(segment.rng.device)
    rng.set_state(state)
    return replace(segment, rng=rng)
