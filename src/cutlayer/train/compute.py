"""The torch device that a job asks for, and the numbers that it multiplies matrices in."""

import torch
from torch import Tensor

from cutlayer.errors import JobError
from cutlayer.settings.compute import Precision


def find_compute(name: str, field: str = "training.compute") -> torch.device:
    """The torch device that a setting names; `auto`: a CUDA GPU if there is one, else the CPU.

    Raises JobError if this machine does not have it.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise JobError(
                f"{field}: 'mps' was asked for but torch sees no GPU of Apple's: take 'cpu' or "
                "'auto'"
            )
        return torch.device("mps")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    if not count:
        raise JobError(
            f"{field}: {name!r} was asked for but torch sees no GPU: take 'cpu' or 'auto'"
        )
    device = torch.device(name)
    if (device.index or 0) >= count:
        raise JobError(
            f"{field}: {name!r} was asked for but torch sees {count} GPUs: take one up to "
            f"'cuda:{count - 1}'"
        )
    return device


def set_precision(precision: Precision, device: torch.device) -> None:
    """Let torch multiply matrices on `device` with this precision.

    Only tf32 is switched here; `CutModel.use` sets bfloat16. Raises JobError if the hardware lacks
    the precision.
    """
    if precision == "tf32" and (
        device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)
    ):
        raise JobError(
            f"training.precision: {device.type!r} here has no tf32, which NVIDIA's GPUs have from "
            "Ampere on: take float32 or bfloat16"
        )
    if precision == "bfloat16" and not _has_bfloat16(device):
        raise JobError(f"training.precision: {device.type!r} here has no bfloat16: take float32")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the torch device multiplies in bfloat16; every CPU does, some slowly."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        ones = torch.ones(2, 2, dtype=torch.bfloat16, device=device)
        return bool((ones @ ones).sum().item() == 8)
    except (RuntimeError, TypeError):
        return False


def why_slow(precision: Precision, device: torch.device) -> str | None:
    """Why training in this precision takes far longer than in float32; None if it does not."""
    if precision != "bfloat16" or device.type != "cpu" or _multiplies_bfloat16():
        return None
    return (
        "training.precision: this processor multiplies no bfloat16 itself (those with AVX-512 or "
        "Arm's BF16 do), so that training takes many times as long as in float32: take float32"
    )


def _multiplies_bfloat16() -> bool:
    """Whether torch has products of bfloat16 for the processor; true where that is not known."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return True


def float64(tensor: Tensor) -> Tensor:
    """A tensor in float64; on the CPU if its torch device has no float64 (Apple's GPU)."""
    detached = tensor.detach()
    return (detached.cpu() if detached.device.type == "mps" else detached).double()
