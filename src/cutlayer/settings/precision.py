"""The numbers in which frozen blocks of devices may compute; light devices import this, and no
pydantic."""

from typing import Literal

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
"""Numbers in which the device's part computes; int8: weights and the inputs of matrix products."""
