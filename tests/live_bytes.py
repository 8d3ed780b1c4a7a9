"""How many bytes of tensors are alive at once while something is computed."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, for as long as each lives.

    peak: the most bytes at once, of those made within the `with` block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            one.untyped_storage()._cdata
            for one in _pytree.tree_leaves((args, kwargs))
            if isinstance(one, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for one in _pytree.tree_leaves(result):
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self._known:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self.now -= size
            self._known.discard(key)

        weakref.finalize(storage, gone)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes of new tensors at once while `work` runs."""
    with LiveBytes() as counted:
        work()
    return counted.peak
