"""Images that threads decode when they are needed, or ahead if the next ones are known."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from cutlayer.data.images import Item, decoded
from cutlayer.data.viewing import Depths
from cutlayer.resize import Fit

_AHEAD_BYTES = 2**27
"""The most bytes of images that may be decoded ahead of the steps that need them."""
_MOST_THREADS = 8


class StoredImages:
    """Images that stay in their files until they are asked for; decoded as by `images.stack`.

    items, size, grey, depths: see `images.stack`. shape: of all images together, [n, C, H, W].
    """

    def __init__(
        self, items: Sequence[Item], size: tuple[int, int] | Fit, grey: bool, depths: Depths
    ) -> None:
        self._items, self._size, self._grey, self._depths = items, size, grey, depths
        height, width = (size.side, size.side) if isinstance(size, Fit) else size
        self.shape = torch.Size((len(items), 1 if grey else 3, height, width))
        self._most = max(1, _AHEAD_BYTES // self.shape[1:].numel())
        self._ahead: dict[int, Future[torch.Tensor]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def take(self, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """The images at `rows`, uint8 [m, C, H, W]. Raises DataError if one cannot be decoded."""
        wanted: dict[int, Future[torch.Tensor]] = {}
        for row in rows.tolist():
            if row not in wanted:
                with self._lock:
                    begun = self._ahead.pop(row, None)
                wanted[row] = begun or self._begin(row)
        if not wanted:
            return torch.empty((0, *self.shape[1:]), dtype=torch.uint8)
        return torch.stack([wanted[row].result() for row in rows.tolist()])

    def expect(self, rows: npt.NDArray[np.int64]) -> None:
        """Begin to decode images that will be taken soon, as many as there is room for."""
        with self._lock:
            for row in rows.tolist():
                if len(self._ahead) < self._most and row not in self._ahead:
                    self._ahead[row] = self._begin(row)

    def dismiss(self, rows: npt.NDArray[np.int64]) -> None:
        """Drop images at `rows` that were decoded ahead and never taken."""
        with self._lock:
            for row in self._ahead.keys() & set(rows.tolist()):
                self._ahead.pop(row).cancel()

    def _begin(self, row: int) -> Future[torch.Tensor]:
        return _threads().submit(decoded, self._items[row], self._size, self._grey, self._depths)


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), "decode")
