"""Continues prompts with a language model, by the likeliest token each time."""

from collections.abc import Collection, Sequence

import torch

from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter

TOGETHER = 16
"""How many prompts of one length are continued in one batch."""


def go_on(
    model: CutModel,
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    most: int,
    ends: Collection[int],
) -> list[list[int]]:
    """The tokens that follow each prompt, up to and including one of `ends`.

    most: the most tokens for each prompt, within the model's max_tokens. Keys and values of earlier
    tokens are kept, so that every token is computed only once.
    """
    said: list[list[int]] = [[] for _ in prompts]
    alike: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        alike.setdefault(len(prompt), []).append(place)
    for length, places in sorted(alike.items()):
        room = min(most, model.spec.max_tokens - length)
        for start in range(0, len(places), TOGETHER):
            chosen = places[start : start + TOGETHER]
            found = _side_by_side(model, adapter, [prompts[one] for one in chosen], room, ends)
            for place, tokens in zip(chosen, found, strict=True):
                said[place] = tokens
    return said


@torch.no_grad()
def _side_by_side(
    model: CutModel,
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    most: int,
    ends: Collection[int],
) -> list[list[int]]:
    """As `go_on`, for prompts of one length."""
    said: list[list[int]] = [[] for _ in prompts]
    past, route = model.new_past(), [Segment(adapter, len(prompts))]
    given, going = torch.tensor(prompts), set(range(len(prompts)))
    for _ in range(most):
        chosen = model.go_on(given, past, route).argmax(1)
        for place in list(going):
            said[place].append(int(chosen[place]))
            if said[place][-1] in ends:
                going.discard(place)
        if not going:
            break
        given = chosen[:, None]
    return said
