"""Copies between the torch device that computes and the bytes of frames: one copy for all devices.

Copies to and from a GPU go through page-locked memory; the CPU waits for the GPU only in a copy to
the CPU. Tensors are little-endian in memory, as on x86, ARM and GPUs.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.wire import frame
from cutlayer.wire.codecs.seam import Rows

Octets = NDArray[np.uint8]
Item = TypeVar("Item")
Result = TypeVar("Result")

ToPack = tuple[str, msgspec.Struct, tuple[bytes, ...]]
"""The kind of a frame, its header, and the parts of its body."""

_WORTH_A_THREAD = 2**20


def wire_device(device: torch.device) -> torch.device:
    """The torch device that makes and reads frames of tensors on `device`: the same one, except
    that the CPU does it for Apple's GPU, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def as_sent(x: Tensor) -> Tensor:
    """Values as frames are made of them: float32, where frames of its torch device are made."""
    return x.detach().to(wire_device(x.device), torch.float32)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x on `device`; returns before the copy is done."""
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def to_host(x: Tensor) -> Tensor:
    """x on the CPU."""
    if x.device.type != "cuda":
        return x.cpu()
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    torch.cuda.current_stream(x.device).synchronize()
    return host


def ends(x: Tensor) -> Tensor:
    """The smallest and the largest value of x [2], not finite where any value is not; x holds one
    value or more."""
    return torch.stack(torch.aminmax(x))


def is_finite(x: Tensor) -> bool:
    """Whether x, which holds one value or more, has neither NaN nor infinity."""
    return all(map(math.isfinite, ends(x).tolist()))


def rows_on_cpu(batch: Sequence[Rows]) -> list[Rows]:
    """Rows with their values on the CPU: one copy for all of them."""
    if all(rows.values.device.type == "cpu" for rows in batch):
        return list(batch)
    values = to_host(torch.cat([rows.values for rows in batch]))
    parts = torch.split(values, [len(rows.values) for rows in batch])
    return [replace(rows, values=part) for rows, part in zip(batch, parts, strict=True)]


def bytes_of(parts: Sequence[Tensor]) -> list[Octets]:
    """The bytes of some tensors of one torch device, on the CPU; one copy for all of them."""
    flat = [part.contiguous().view(-1).view(torch.uint8) for part in parts]
    if all(part.device.type == "cpu" for part in flat):
        return [part.numpy() for part in flat]
    whole = to_host(torch.cat(flat)).numpy()
    return np.split(whole, np.cumsum([len(part) for part in flat])[:-1])


def from_bytes(
    parts: Sequence[bytes | memoryview | Octets], sizes: Sequence[int], device: torch.device
) -> Tensor:
    """The parts on `device`, one after another, each filled up with zeros to its size in bytes."""
    host = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    room, start = host.numpy(), 0
    for part, size in zip(parts, sizes, strict=True):
        filled = start + len(part)
        room[start:filled] = np.frombuffer(part, np.uint8)
        room[filled : start + size] = 0
        start += size
    return host.to(device, non_blocking=True)


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item], total_bytes: int
) -> list[Result]:
    """The results of `work` for each item, in their order, by as many threads as torch has.

    total_bytes: that all items hold together; for few bytes no threads are used, since they would
    cost more than they save.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads < 2 or total_bytes < _WORTH_A_THREAD:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def pack_all(frames: Sequence[ToPack]) -> list[bytes]:
    """Each of many frames as bytes."""

    def pack(one: ToPack) -> bytes:
        kind, header, parts = one
        return frame.pack(kind, header, b"".join(parts))

    return side_by_side(pack, frames, sum(len(part) for _, _, parts in frames for part in parts))
