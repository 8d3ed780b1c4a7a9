"""Masks of LoRA dropout, for all devices of a pass at once; each belongs to a device's own sample.

A number of a mask is a function of what it stands for (the device's seed, the sample, the layer,
the token, the input of the layer) and of nothing else, as in the counter-based generators of Salmon
et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3"); SplitMix64 mixes the bits (Steele et
al. 2014, "Fast splittable pseudorandom number generators"). So it does not matter who shares a
pass, how long others' texts are, or whether a block is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cutlayer.seeds import derive

# Odd numbers of 64 bits, as torch's int64 holds them: by SplitMix64, and two more for the places of
# a mask, so that no two of them share a number.
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
_SAMPLE, _TOKEN = 0x9E3779B97F4A7C15 - 2**64, 0xD1B54A32D192ED03 - 2**64
_INPUT = 0xABC98388FB8FAC03 - 2**64


@dataclass(frozen=True, eq=False)
class Masks:
    """What the masks of a pass are drawn from, on the torch device that computes.

    seeds: of each sample's device [B]; 0 where `dropped` [B] says that nothing is dropped. samples:
    each one's number in its device's batch [B]. source, places: where rows hold tokens of several
    samples, the sample [R,T] and the place in it [R,T] of each token; None: a row is a sample.
    """

    seeds: Tensor
    samples: Tensor
    dropped: Tensor
    source: Tensor | None = None
    places: Tensor | None = None

    def to(self, device: torch.device) -> Masks:
        """The same on another torch device."""
        return replace(
            self,
            seeds=self.seeds.to(device, non_blocking=True),
            samples=self.samples.to(device, non_blocking=True),
            dropped=self.dropped.to(device, non_blocking=True),
        )

    def packed(self, source: Tensor, places: Tensor) -> Masks:
        """The same for rows that hold tokens of several samples."""
        return replace(self, source=source, places=places)

    def drop(self, x: Tensor, p: float, layer: str, call: int) -> Tensor:
        """Inverted dropout of the input x [B,...,D] of a layer, at its `call`-th call in the pass.

        Of a pass of one adapter x may be anything that is the same for all samples.
        """
        tokens = torch.arange(x[0].numel() // x.shape[-1], device=x.device)
        salt = derive(call, layer)
        if self.source is not None and self.places is not None:
            keys = _mixed(self.seeds + self.samples * _SAMPLE + salt)[self.source]
            keys, dropped = keys + self.places * _TOKEN, self.dropped[self.source]
        else:
            seeds, samples, dropped = self.seeds, self.samples, self.dropped
            if len(x) != len(samples):
                samples = torch.arange(len(x), device=x.device)
                seeds, dropped = seeds[:1].expand(len(x)), dropped[:1].expand(len(x))
            keys = _mixed(seeds + samples * _SAMPLE + salt)[:, None] + tokens * _TOKEN
            dropped = dropped[:, None].expand_as(keys)
        inputs = torch.arange(x.shape[-1], device=x.device) * _INPUT
        # Two rounds of mixing are enough for the upper bits, which decide. In place: as large as x.
        bits = _mix_(keys[..., None] + inputs, 32, _FIRST)
        bits = _mix_(bits, 29, _SECOND)
        # Of 2^64 numbers so many are dropped; as int64 they begin at -2^63.
        least = torch.where(dropped, int(p * 2**64) - 2**63, -(2**63))[..., None]
        scale = x.new_ones(dropped.shape).masked_fill_(dropped, 1 / (1 - p))[..., None]
        mask = (bits >= least).to(x.dtype) * scale
        return x * mask.view_as(x)


def masks_of(drawn: Sequence[tuple[int | None, int, int]]) -> Masks | None:
    """Masks of segments given as (seed, samples, number of the first of them); None without a seed.

    A segment whose seed is None drops nothing.
    """
    if all(seed is None for seed, _, _ in drawn):
        return None
    columns = torch.tensor([(seed or 0, size, first) for seed, size, first in drawn])
    dropped = torch.tensor([seed is not None for seed, _, _ in drawn])
    seeds, sizes, firsts = columns.unbind(1)
    starts = firsts + sizes - sizes.cumsum(0)
    return Masks(
        seeds.repeat_interleave(sizes),
        starts.repeat_interleave(sizes) + torch.arange(int(sizes.sum())),
        dropped.repeat_interleave(sizes),
    )


def _mixed(keys: Tensor) -> Tensor:
    """Numbers of 64 bits that tell nothing of each other, of as many that differ."""
    keys = _mix_(_mix_(keys, 30, _FIRST), 27, _SECOND)
    return keys ^ _upper(keys, 31)


def _mix_(numbers: Tensor, shift: int, factor: int) -> Tensor:
    """One round: the upper bits folded onto the lower, and a product."""
    return numbers.bitwise_xor_(_upper(numbers, shift)).mul_(factor)


def _upper(numbers: Tensor, shift: int) -> Tensor:
    """The bits above the lowest `shift`, where int64 would drag its sign along."""
    return (numbers >> shift).bitwise_and_((1 << (64 - shift)) - 1)
