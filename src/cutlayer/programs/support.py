"""For which jobs and models there are programs of light devices, and why not for others."""

from cutlayer.job import Job
from cutlayer.model.spec import ModelSpec


def why_not(job: Job, spec: ModelSpec) -> str | None:
    """What of a job a device without torch cannot do, as a sentence; None where it can do all."""
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
        return "training.image_augmentation: it changes images by torch"
    if method.uplink.codec == "quantize" and method.uplink.rounding != "nearest":
        return (
            f"method.uplink.rounding: {method.uplink.rounding} draws its numbers by torch: take "
            "nearest"
        )
    for field in ("activation_noise", "label_noise"):
        if getattr(job.privacy, field):
            return f"privacy.{field}: devices draw this noise by torch: leave it out"
    return None
