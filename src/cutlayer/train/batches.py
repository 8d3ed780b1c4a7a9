"""Splits messages of activations into one for each sample, and joins them again."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from cutlayer.wire.messages import ActivationsMessage


def one_by_one(message: ActivationsMessage) -> list[ActivationsMessage]:
    """A message for each sample, without the padding behind its last token."""
    found = []
    for place in range(len(message.hidden)):
        one = slice(place, place + 1)
        hidden, mask, places = message.hidden[one], message.mask, message.places
        labels = message.labels[one]
        if mask is not None:
            mask = mask[one]
            if places is None:
                last = int(mask[0].nonzero().max()) + 1
                hidden, mask = hidden[:, :last], mask[:, :last]
                if labels.dim() == 2:  # one for each token
                    labels = labels[:, :last]
        if places is not None:
            places = replace(places, kept=places.kept[one])
        found.append(replace(message, hidden=hidden, mask=mask, labels=labels, places=places))
    return found


def joined(messages: Sequence[ActivationsMessage], due: tuple[int, int, int]) -> ActivationsMessage:
    """Several messages as one, padded to the longest; due: its device, round and step."""
    longest = max(message.hidden.shape[1] for message in messages)
    hidden = torch.cat([_padded(message.hidden, longest) for message in messages])
    masks = [_padded(message.mask, longest) for message in messages if message.mask is not None]
    labels = torch.cat(
        [
            _padded(message.labels, longest) if message.labels.dim() == 2 else message.labels
            for message in messages
        ]
    )
    mask = torch.cat(masks) if masks else None
    return ActivationsMessage(*due, hidden, mask, labels, messages[0].num_classes)


def _padded(x: torch.Tensor, length: int) -> torch.Tensor:
    """x [B, T, ...] with zeros behind, up to `length` tokens."""
    missing = length - x.shape[1]
    if not missing:
        return x
    return torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], dim=1)
