"""Whether devices only name the samples that the server already holds, and never resend them."""

from typing import Literal

from cutlayer.job import Job


def reuses(job: Job, modality: Literal["image", "text"]) -> bool:
    """Whether the job's devices reuse samples: as `uplink.reuse` says; by default if it is exact.

    It is not quite exact for texts, whose last bits depend on the longest text of the batch; nor
    with 1 to 8 bits a value, where all values of a frame share a scale and a sample that is kept
    must be quantised alone; nor with an allocator that chooses bits, since a sample that was sent
    with more bits may be used. Allocators other than `equal` and `auto` assume whole uploads.
    """
    method, uplink = job.method, job.method.uplink
    if uplink.reuse is not None:
        return uplink.reuse and method.split
    alone = uplink.codec == "klt" or uplink.bits > 8
    exact = alone and modality == "image" and why_not(job) is None
    return exact and method.split and method.allocation.solver == "equal"


def holds_all_after_a_visit(job: Job) -> bool:
    """Whether a sample is never sent again after the first visit: false if it has versions."""
    return (job.method.uplink.variants or 1) == 1


def why_not(job: Job) -> str | None:
    """Why a sample's activations change from visit to visit; None if they do not."""
    method, uplink = job.method, job.method.uplink
    if method.device != "frozen":
        return "the blocks on the devices are trained: take method.device frozen"
    if job.training.image_augmentation and uplink.variants is None:
        return (
            "training.image_augmentation changes images: leave it out, or set "
            "method.uplink.variants to so many versions of each"
        )
    if uplink.codec == "quantize" and uplink.rounding != "nearest":
        return "uplink.rounding is random: take nearest"
    return None
