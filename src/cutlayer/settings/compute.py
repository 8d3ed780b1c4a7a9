"""What a job computes on, and in which numbers."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator


def _check(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
        raise ValueError(
            f"{name!r} is no torch device: take auto, cpu, cuda, cuda:N (the GPU with that "
            "number, from 0) or mps (Apple's GPU)"
        )
    return name


Compute = Annotated[str, AfterValidator(_check)]
Precision = Literal["float32", "tf32", "bfloat16"]
