"""Which jobs light devices can take part in and in which numbers they compute, and why not."""

from cutlayer.errors import JobError
from cutlayer.job import Job
from cutlayer.model.spec import ModelSpec
from cutlayer.settings.precision import Precision


def why_not(job: Job, spec: ModelSpec) -> str | None:
    """Why a device without torch cannot take part in a job, as a sentence; None if it can."""
    method = job.method
    if not method.split:
        return f"method.name: {method.name} trains the whole model on the device, which needs torch"
    if spec.parts.language:
        return (
            f"model.path: {spec.path} is a language model, whose devices train blocks or read "
            "passages, which needs torch"
        )
    if method.device != "frozen":
        return (
            f"method.device: method {method.name} sends gradients to devices that train, which "
            "needs torch"
        )
    if job.has_tail:
        return "model.tail: devices that run the last blocks train them, which needs torch"
    if spec.residual:
        return f"model.path: {spec.path} is a {spec.family}, whose blocks are not exported"
    if job.model.frozen_bits != 32:
        return (
            f"model.frozen_bits: weights in {job.model.frozen_bits} bits are multiplied by torch: "
            "take 32, and --precision on the devices"
        )
    if job.training.image_augmentation:
        return "training.image_augmentation: it needs torch to change images"
    if method.uplink.codec == "quantize" and method.uplink.rounding != "nearest":
        return (
            f"method.uplink.rounding: {method.uplink.rounding} needs torch to draw random numbers: "
            "take nearest"
        )
    if method.uplink.codec == "klt" and method.uplink.spatial:
        return (
            "method.uplink.spatial: programs of light devices do not transform between patches: "
            "set it to false"
        )
    if method.uplink.codec == "klt" and method.uplink.known_tokens:
        return (
            "method.uplink.known_tokens: programs of light devices have means of positions, not of "
            "tokens: set it to false"
        )
    for field in ("activation_noise", "label_noise"):
        if getattr(job.privacy, field):
            return f"privacy.{field}: devices need torch to draw this noise: leave it out"
    return None


def check_precisions(job: Job, spec: ModelSpec) -> None:
    """Raise JobError if the job allows a precision that none of its devices can compute in."""
    others = _others(job)
    if not others:
        return
    named = f"method.allocation.precisions: {' and '.join(others)}"
    reason = why_not(job, spec)
    if reason is not None:
        raise JobError(
            f"{named} are computed by programs of light devices, of which this job has none "
            f"({reason}): take float32 alone"
        )
    if job.method.allocation.leakage_max is not None:
        raise JobError(
            f"{named} may leak otherwise than float32, which is what cutlayer audit attacks: take "
            "float32 alone, or leave method.allocation.leakage_max out"
        )


def check_speeds(job: Job) -> None:
    """Raise JobError if the job does not say how fast a precision is that it allows."""
    for one in _others(job):
        if job.world is not None and getattr(job.world.fleet, f"{one}_speed") is None:
            raise JobError(
                f"world.fleet.{one}_speed: null, but method.allocation.precisions has {one}: say "
                "how many times as fast as in float32 devices compute in it, as cutlayer join "
                "--light --probe measures"
            )


def _others(job: Job) -> list[Precision]:
    """The precisions besides float32 that the job allows."""
    return [one for one in job.method.allocation.precisions if one != "float32"]
