"""Which jobs light devices can take part in, and why not in others."""

from cutlayer.job import Job
from cutlayer.model.spec import ModelSpec


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
    for field in ("activation_noise", "label_noise"):
        if getattr(job.privacy, field):
            return f"privacy.{field}: devices need torch to draw this noise: leave it out"
    return None
