"""Whether devices name the samples that the server holds already, instead of sending them again."""

from typing import Literal

from cutlayer.job import Job


def reuses(job: Job, modality: Literal["image", "text"]) -> bool:
    """Whether the job's devices do: as `uplink.reuse` says, by itself where it is exact.

    It is not quite exact for texts, which come out in the last bits by the longest one of their
    batch, nor in 1 to 8 bits a value, where all values of a frame share a scale: a sample that is
    to be kept is quantised alone; nor with an allocator that chooses, where what was sent finer may
    serve. Allocators but for `equal` and `auto` reckon with whole uploads.
    """
    method, uplink = job.method, job.method.uplink
    if uplink.reuse is not None:
        return uplink.reuse and method.split
    alone = uplink.codec == "klt" or uplink.bits > 8
    exact = alone and modality == "image" and why_not(job) is None
    return exact and method.split and method.allocation.solver == "equal"


def holds_all_after_a_visit(job: Job) -> bool:
    """Whether later visits of a sample send nothing new: not so of several versions of it."""
    return (job.method.uplink.variants or 1) == 1


def why_not(job: Job) -> str | None:
    """What makes a sample's activations others at each visit; None where nothing does."""
    method, uplink = job.method, job.method.uplink
    if method.device != "frozen":
        return "the blocks on the devices are trained: take method.device frozen"
    if job.training.image_augmentation and uplink.variants is None:
        return (
            "training.image_augmentation changes images: leave it out, or set "
            "method.uplink.variants to so many versions of each"
        )
    if uplink.codec == "quantize" and uplink.rounding != "nearest":
        return "uplink.rounding is at random: take nearest"
    return None
