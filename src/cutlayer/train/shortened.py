"""Selects the tokens of a batch that cross the cut, for one device or many that share a pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutlayer.model.cut import Activations
from cutlayer.settings.method import Tokens
from cutlayer.wire.places import Places
from cutlayer.wire.tokens import select
from cutlayer.wire.transfer import to_host


@dataclass(frozen=True, eq=False)
class Shortened:
    """The tokens that cross the cut: hidden [b, T', D], with its graph; mask [b, T'] on the CPU, or
    None; places: which tokens were kept (None: all)."""

    hidden: Tensor
    mask: Tensor | None
    places: Places | None

    def split(self, sizes: Sequence[int]) -> "list[Shortened]":
        """The parts of devices with `sizes` samples, detached from the graph."""
        parts = torch.split(self.hidden.detach(), list(sizes))
        masks: Sequence[Tensor | None] = [None] * len(parts)
        if self.mask is not None:
            masks = torch.split(self.mask, list(sizes))
        places: list[Places | None] = [None] * len(parts)
        if self.places is not None:
            candidates, merged = self.places.candidates, self.places.merged
            kept = torch.split(self.places.kept, list(sizes))
            places = [Places(one, candidates, merged) for one in kept]
        return [Shortened(*one) for one in zip(parts, masks, places, strict=True)]


def shorten(activations: Activations, tokens: Tokens, prefix: int) -> Shortened:
    """The tokens of a batch that cross the cut."""
    hidden, mask, scores = activations.hidden, activations.mask, activations.scores
    if scores is None:
        return Shortened(hidden, None if mask is None else to_host(mask), None)
    chosen = select(hidden, scores, prefix, tokens, mask)
    candidates, places = scores.shape[1], None
    if tokens.keep is not None and tokens.keep < candidates:
        places = Places(chosen.kept, candidates, tokens.rest == "merge")
    return Shortened(chosen.hidden, None if chosen.mask is None else to_host(chosen.mask), places)


@dataclass(frozen=True, eq=False)
class Group:
    """Devices, by their place in a pool, that send equally many tokens of each sample."""

    places: list[int]
    sizes: list[int]
    sent: Shortened


def shorten_for_each(
    activations: Activations, sizes: Sequence[int], tokens: Sequence[Tokens], prefix: int
) -> list[Group]:
    """The tokens that the devices of a pool send of a batch that mixes them, by group.

    sizes: how many samples each device has. tokens: how each device selects tokens; devices that
    select alike form a group.
    """
    alike: dict[Tokens, list[int]] = {}
    for place, (size, setting) in enumerate(zip(sizes, tokens, strict=True)):
        if size:
            alike.setdefault(setting, []).append(place)
    groups = []
    for setting, places in alike.items():
        own = [sizes[place] for place in places]
        part = activations
        if len(alike) > 1:
            part = Activations(
                _picked(activations.hidden, sizes, places),
                None if activations.mask is None else _picked(activations.mask, sizes, places),
                None if activations.scores is None else _picked(activations.scores, sizes, places),
            )
        groups.append(Group(places, own, shorten(part, setting, prefix)))
    return groups


def _picked(x: Tensor, sizes: Sequence[int], places: Sequence[int]) -> Tensor:
    """The rows of some devices of a pool, in their order."""
    parts = torch.split(x, list(sizes))
    return torch.cat([parts[place] for place in places])
