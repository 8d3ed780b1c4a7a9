"""LoRA layers that read the same input, such as query and value, share one product with their A."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cutlayer.model.stack import Run, split_by_runs


class Siblings:
    """Layers that read the same input; the first one that is called makes the product for all.

    keys: the adapter's keys of the layers' A.
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._read: Tensor | None = None
        self._inner: dict[str, list[Tensor | None]] = {}

    def inner(self, key: str, x: Tensor, runs: Sequence[Run]) -> list[Tensor | None]:
        """x A^T of each run: [n, b T, R], or [b T, R] for a run of one adapter; None without A."""
        if self._read is not x or key not in self._inner:
            self._read, self._inner = x, self._products(x, runs)
        found = self._inner.pop(key)
        if not self._inner:  # free x A^T that no layer will ask for
            self._read = None
        return found

    def forget(self) -> None:
        """Drop products for layers that were not called."""
        self._read, self._inner = None, {}

    def _products(self, x: Tensor, runs: Sequence[Run]) -> dict[str, list[Tensor | None]]:
        found: dict[str, list[Tensor | None]] = {key: [] for key in self.keys}
        for piece, run in zip(split_by_runs(x, runs), runs, strict=True):
            parts = self._of_run(piece, run)
            for key in self.keys:
                found[key].append(parts.get(key))
        return found

    def _of_run(self, x: Tensor, run: Run) -> dict[str, Tensor]:
        stacks = {key: run.stacked(key) for key in self.keys if run.has(key)}
        if not stacks:
            return {}
        # [n, R of all, in]
        joint = torch.cat(list(stacks.values()), 1)
        if len(joint) == 1:
            product = x.reshape(-1, x.shape[-1]) @ joint[0].t()
        else:
            rows = x.reshape(len(joint), -1, x.shape[-1])
            product = torch.bmm(rows, joint.transpose(1, 2))
        ranks = [stack.shape[1] for stack in stacks.values()]
        return dict(zip(stacks, torch.split(product, ranks, -1), strict=True))
