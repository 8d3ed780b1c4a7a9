"""Random numbers that belong to a thing (device, round, purpose), not to the order of execution."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *key: int | str) -> int:
    """A 63-bit seed that depends on `seed` and every part of `key`, on any machine alike."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in key)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_rng(seed: int, *key: int | str) -> np.random.Generator:
    """A NumPy generator for `(seed, *key)`.

    seed: of the job. key: names what is drawn, as in ("adapter",).
    """
    return np.random.default_rng(derive(seed, *key))


def torch_rng(seed: int, *key: int | str) -> torch.Generator:
    """A CPU torch generator for `(seed, *key)`.

    seed: of the job. key: names what is drawn, as in ("adapter",).
    """
    import torch  # takes seconds; planning needs no tensors

    return torch.Generator().manual_seed(derive(seed, *key))
