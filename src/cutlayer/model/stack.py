"""Adapters of many devices, stacked into one tensor for each name, so that one product does all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class AdapterStack:
    """m adapters with the same names: a tensor [m, ...] for each name; `rows`: each adapter.

    apart: tensors that are not stacked, such as running statistics, which the forward pass changes
    in place.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        count: int,
        apart: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> None:
        self.tensors = dict(tensors)
        self.rows = [StackRow(self, index) for index in range(count)]
        self._single: dict[str, Sequence[Tensor]] = dict(apart or {})

    def names(self) -> list[str]:
        """The names of an adapter's tensors."""
        return [*self.tensors, *(name for name in self._single if name not in self.tensors)]

    def single(self, name: str) -> Sequence[Tensor]:
        """The tensor `name` of each adapter; their gradients go to the stack's tensor."""
        if name not in self._single:
            self._single[name] = self.tensors[name].unbind()
        return self._single[name]


class StackRow(Mapping[str, Tensor]):
    """One adapter of a stack, as a mapping from names to tensors."""

    def __init__(self, stack: AdapterStack, index: int) -> None:
        self.stack = stack
        self.index = index

    def __getitem__(self, name: str) -> Tensor:
        return self.stack.single(name)[self.index]

    def __contains__(self, name: object) -> bool:
        return name in self.stack.tensors or name in self.stack.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stack.names())

    def __len__(self) -> int:
        return len(self.stack.names())


@dataclass(frozen=True, eq=False)
class Run:
    """Neighbouring segments whose adapters have the same shapes and equally many samples.

    size: the number of samples of each adapter.
    """

    adapters: Sequence[Mapping[str, Tensor]]
    size: int

    @property
    def samples(self) -> int:
        """The number of samples of all its adapters together."""
        return len(self.adapters) * self.size

    def has(self, name: str) -> bool:
        """Whether the adapters hold a tensor of this name."""
        return name in self.adapters[0]

    def stacked(self, name: str) -> Tensor:
        """The adapters' tensors of one name: [n, ...]."""
        first = self.adapters[0]
        if isinstance(first, StackRow):
            whole = first.stack.tensors[name]
            count = len(self.adapters)
            return whole if count == len(whole) else whole.narrow(0, first.index, count)
        if len(self.adapters) == 1:
            return first[name].unsqueeze(0)
        return torch.stack([adapter[name] for adapter in self.adapters])


def runs_of(segments: Sequence[tuple[Mapping[str, Tensor], int]]) -> tuple[Run, ...]:
    """The runs of (adapter, samples) pairs, in order; neighbours on one adapter are joined."""
    joined: list[tuple[Mapping[str, Tensor], int]] = []
    for adapter, size in segments:
        if joined and joined[-1][0] is adapter:
            joined[-1] = (adapter, joined[-1][1] + size)
        else:
            joined.append((adapter, size))
    runs: list[Run] = []
    start = 0
    for at in range(1, len(joined) + 1):
        if at == len(joined) or not _alike(joined[at - 1], joined[at]):
            runs.append(Run([adapter for adapter, _ in joined[start:at]], joined[start][1]))
            start = at
    return tuple(runs)


def split_by_runs(x: Tensor, runs: Sequence[Run]) -> Sequence[Tensor]:
    """The samples of each run of a batch x [B, ...]; a single run gets x whole, of any length."""
    return [x] if len(runs) == 1 else torch.split(x, [run.samples for run in runs])


def _alike(one: tuple[Mapping[str, Tensor], int], other: tuple[Mapping[str, Tensor], int]) -> bool:
    """Whether two neighbours belong to one run."""
    (before, size), (after, next_size) = one, other
    if size != next_size:
        return False
    if isinstance(before, StackRow) or isinstance(after, StackRow):
        return (
            isinstance(before, StackRow)
            and isinstance(after, StackRow)
            and before.stack is after.stack
            and before.index + 1 == after.index
        )
    return before.keys() == after.keys() and all(
        before[name].shape == after[name].shape for name in before
    )
