"""For which jobs devices may send samples as changes (see change_coding.py)."""

from cutlayer.job import Job


def why_no_changes(job: Job, modality: str) -> str | None:
    """What keeps a job's devices from sending changes, with the remedy; None where nothing does."""
    method, uplink = job.method, job.method.uplink
    reasons = {
        "the blocks on the devices are frozen, and a sample is the same at every visit: take "
        "uplink.reuse": method.device != "trained",
        "it is for images, whose samples have one length: leave it out": modality != "image",
        "which tokens of a sample are sent moves as training goes on: take tokens.keep null": (
            method.tokens.keep is not None
        ),
        "training.image_augmentation makes a sample another at each visit: leave it out": bool(
            job.training.image_augmentation
        ),
        f"allocation.solver {method.allocation.solver} may choose other tokens, cuts or bits in "
        "each round: take equal": method.allocation.solver != "equal",
        "model.tail has the last blocks on devices: leave one of them out": job.has_tail,
        "16 and 32 bits are sent as they are: take klt, or uplink.bits of 1 to 8": (
            uplink.codec == "quantize" and uplink.bits > 8
        ),
        "uplink.rounding is random: take nearest": (
            uplink.codec == "quantize" and uplink.rounding != "nearest"
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
