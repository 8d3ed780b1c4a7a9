"""Blocks that compute their inner activations again in the backward pass instead of keeping them.

Chen et al. 2016, arXiv 1604.06174: only the activations of one block at a time are in memory, and
the forward pass is computed twice.
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
    """`block(hidden, **arguments)`, which keeps only its input for the backward pass.

    There the block is computed again, with the same adapters and dropout masks.
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
    """A context that restores the present route and the present state of its random generators."""
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
    """The segment with a new generator that is set to an earlier state."""
    if segment.rng is None or state is None:
        return segment
    rng = torch.Generator(segment.rng.device)
    rng.set_state(state)
    return replace(segment, rng=rng)
