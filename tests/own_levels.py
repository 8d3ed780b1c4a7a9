"""Levels of quantisers as users write them: good ones, and every way to get them wrong."""

import numpy as np


def cubic(bits: int) -> np.ndarray:
    """Closer together near zero."""
    return 3 * np.linspace(-1, 1, 2**bits) ** 3


def too_few(bits: int) -> list[float]:
    """One less than the bits can tell apart."""
    return list(range(2**bits - 1))


def falling(bits: int) -> list[float]:
    """In the wrong order."""
    return list(range(2**bits, 0, -1))


def endless(bits: int) -> list[float]:
    """The last is infinite."""
    return [*range(2**bits - 1), float("inf")]


def words(bits: int) -> list[str]:
    """No numbers."""
    return ["low", "high"] * 2 ** (bits - 1)


NUMBER = 3
