"""Checks a job whose last blocks are on devices (model.tail)."""

from cutlayer.errors import JobError
from cutlayer.job import Job
from cutlayer.model.spec import ModelSpec
from cutlayer.train.ways import FEATURE_GRADIENTS, FEATURES
from cutlayer.wire.custom_levels import known_levels
from cutlayer.wire.headers import MAX_WIDTH


def check_tail(job: Job, spec: ModelSpec) -> None:
    """Raise JobError for the first setting that cannot be combined with a tail on devices."""
    method, tail = job.method, job.model.tail
    assert tail is not None
    if job.cut + tail >= spec.depth:
        raise JobError(
            f"model.tail: {tail} blocks after a cut at {job.cut} leave the server none of the "
            f"{spec.depth} of {job.model.path}: take fewer, or an earlier cut"
        )
    if method.allocation.solver != "equal":
        raise JobError(
            f"model.tail: method.allocation.solver {method.allocation.solver!r} assumes that "
            "devices hold no last blocks: take solver equal, or leave model.tail out"
        )
    if job.generated_in_use is not None:
        raise JobError(
            "model.tail: generated data needs the labels that devices share, but with a tail "
            "labels stay on devices: leave one of the two out, or take method.generated false"
        )
    if method.uplink.reuse and spec.modality == "text" and method.tokens.keep is not None:
        raise JobError(
            "model.tail: with method.uplink.reuse a device runs only its tail for a text that the "
            "server holds, and does not know which tokens were kept: set method.tokens.keep to null"
        )
    if method.tail_tokens == "learnt" and not (spec.parts.language and tail == 0):
        raise JobError(
            "method.tail_tokens: 'learnt' is for language models with model.tail 0, since blocks "
            "on the device, and heads that pool, look at all tokens: take all, or that tail"
        )
    for name, given in (
        ("tail_downlink", method.tail_downlink), ("tail_uplink", method.tail_uplink),
    ):  # fmt: skip
        if given is None:
            continue
        known_levels(given.levels, f"method.{name}.levels")
        for field in ("reuse", "variants", "change"):
            if getattr(given, field):
                raise JobError(
                    f"method.{name}.{field}: what passes between the server and a tail is never "
                    f"the same again: leave it out, or set method.uplink.{field}"
                )
    for way in (FEATURES, FEATURE_GRADIENTS):
        width = spec.width_at(spec.end)
        if way.is_fitted(job) and width > MAX_WIDTH:
            raise JobError(
                f"method.{way.setting}.codec: 'klt' takes tensors of up to {MAX_WIDTH} channels, "
                f"and {job.model.path} has {width} where its tail begins: take quantize"
            )
    if FEATURE_GRADIENTS.weighs(job) and method.train == "lora" and job.model.lora.side == "device":
        raise JobError(
            "method.tail_uplink.weighting: the server trains nothing between the cut and the tail, "
            "whose gradients errors could change: set method.tail_uplink without it, or "
            "model.lora.side to both or server"
        )
    _check_trains(job, spec)


def _check_trains(job: Job, spec: ModelSpec) -> None:
    """Raise JobError if nothing would be trained, since the head of the model is frozen."""
    side = job.model.lora.side
    on_device = job.model.tail or (job.cut and job.method.device == "trained")
    if spec.parts.language and side == "device" and not on_device:
        raise JobError(
            "model.lora.side: 'device' leaves nothing to train, since the device has no block to "
            f"train, and the head of {spec.path} is frozen: take both or server"
        )
