"""Secrets of 32 bytes shared among devices, so that any `threshold` of them restore them.

Shamir 1979: the secret is the value at 0 of a polynomial over a prime field, and a share is its
value at another point. Fewer shares than the threshold reveal nothing of the secret.
"""

import secrets
from collections.abc import Mapping, Sequence

PRIME = 2**256 + 297
"""The smallest prime above 2^256, so that every secret of 32 bytes is a number of the field."""
SECRET_BYTES = 32
SHARE_BYTES = 33


def share(secret: bytes, points: Sequence[int], threshold: int) -> dict[int, bytes]:
    """A share of `secret` for each of `points`: distinct numbers from 1 up, `threshold` or more."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, but this one has {len(secret)}")
    if not 1 <= threshold <= len(set(points)) == len(points) or not all(
        0 < point < PRIME for point in points
    ):
        raise ValueError(f"{len(points)} points cannot share a secret of threshold {threshold}")
    numbers = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    coefficients = [int.from_bytes(secret, "big"), *numbers]
    return {point: _at(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def restore(shares: Mapping[int, bytes]) -> bytes:
    """The secret, from exactly as many shares as its threshold, by their points.

    Raises ValueError for shares that are not numbers of the field or not of a secret of 32 bytes.
    Other wrong shares give a wrong secret.
    """
    values = {point: int.from_bytes(one, "big") for point, one in shares.items()}
    if not values or any(value >= PRIME for value in values.values()):
        raise ValueError("a share is not a number of the field")
    total = 0
    for point, value in values.items():
        above, below = 1, 1
        for other in values:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        total += value * above * pow(below, -1, PRIME)
    total %= PRIME
    if total >= 2 ** (8 * SECRET_BYTES):
        raise ValueError("the shares are not of a secret of 32 bytes")
    return total.to_bytes(SECRET_BYTES, "big")


def _at(coefficients: Sequence[int], point: int) -> int:
    """The polynomial's value at `point`, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value
