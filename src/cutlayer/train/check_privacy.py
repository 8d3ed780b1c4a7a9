"""Checks that the privacy a job asks for holds with its other settings."""

from cutlayer.errors import JobError
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec
from cutlayer.train.accounting import check_accountant
from cutlayer.train.read_conditions import adapters_travel
from cutlayer.train.ways import WAYS

_BLIND = ("equal", "asfl", "asfv")
"""Allocators that read neither samples nor their activations."""


def check_privacy(job: Job, spec: ModelSpec) -> None:
    """Raise JobError for the first setting under which epsilon would not hold."""
    _check_label_noise(job, spec)
    if job.privacy.secure_sum and adapters_travel(job):
        _check_secure_sum(job)
    privacy, method = job.privacy, job.method
    if privacy.unit == "none":
        return
    unit = f"privacy.unit: {privacy.unit!r}"
    if method.train == "full":
        raise JobError(
            f"{unit} needs LoRA, and method.train is full: running statistics and whole weights "
            "carry no noise: take train lora"
        )
    if job.generated_in_use is not None:
        raise JobError(
            f"{unit} does not cover the labels that devices share for generated data: leave the "
            "generated section out, or take method.generated false"
        )
    fitted = ["uplink"] if method.split and method.uplink.codec == "klt" else []
    fitted += [way.setting for way in WAYS if way.is_fitted(job)]
    if fitted:
        raise JobError(
            f"{unit} does not cover the basis that codec klt fits to samples and sends to all "
            f"devices: take method.{fitted[0]}.codec quantize"
        )
    if not method.pooled and method.allocation.solver not in _BLIND:
        raise JobError(
            f"{unit} does not cover the statistics of samples that allocation.solver "
            f"{method.allocation.solver!r} reads: take one of {', '.join(_BLIND)}"
        )
    if privacy.unit == "device":
        _check_device(job)
    else:
        _check_sample(job, spec)
    check_accountant(privacy)


def _check_device(job: Job) -> None:
    method, trust, unit = job.method, job.trust, "privacy.unit: 'device'"
    if method.pooled or method.aggregate == "none":
        raise JobError(
            f"{unit} hides devices among those that are averaged, and method {method.name} "
            "averages nothing: take a method that averages adapters, or unit sample"
        )
    if method.order == "sequential":
        raise JobError(
            f"{unit} hides a device in a sum of many, and method.order is sequential: take order "
            "parallel, or unit sample"
        )
    if method.split and method.server_adapter != "averaged":
        raise JobError(
            f"{unit} bounds what each device changes, and with method.server_adapter "
            f"{method.server_adapter!r} devices change one adapter at every step: take "
            "server_adapter averaged, or unit sample"
        )
    if trust.average != "mean" or trust.clip_to_median is not None:
        raise JobError(
            f"{unit} needs a sum in which no device changes how another counts: leave "
            "trust.average and trust.clip_to_median out; privacy.clip_norm bounds updates"
        )
    if job.training.clip_update_norm is not None:
        raise JobError(
            f"{unit} bounds updates by privacy.clip_norm: leave training.clip_update_norm out"
        )


def _check_sample(job: Job, spec: ModelSpec) -> None:
    method, unit = job.method, "privacy.unit: 'sample'"
    if spec.parts.language:
        raise JobError(
            f"{unit} needs a loss that is a mean over samples, and that of {spec.path} is one over "
            "tokens: take unit device"
        )
    if job.has_tail:
        raise JobError(
            f"{unit} bounds what a sample changes on the server and before the cut, but not in the "
            "last blocks on devices: leave model.tail out, or take unit device"
        )
    if job.training.class_weights:
        raise JobError(
            f"{unit} needs a loss in which no sample changes how another counts: leave "
            "training.class_weights out"
        )
    for name, side in (("uplink", method.uplink), ("downlink", method.downlink)):
        if method.split and side.codec == "quantize" and side.bits <= 8 and side.per == "tensor":
            raise JobError(
                f"{unit} needs samples that do not change one another: take method.{name}.per token"
            )


def _check_secure_sum(job: Job) -> None:
    """Raise JobError if the server has to read a single adapter, or if nothing hides it."""
    method, trust, field = job.method, job.trust, "privacy.secure_sum"
    if method.order == "sequential":
        raise JobError(
            f"{field}: method.order is sequential, and a turn of one device has no sum to hide in: "
            "take order parallel"
        )
    if job.devices.cohort < 3:
        raise JobError(
            f"{field}: a round has {job.devices.cohort} devices, but in a sum of two each learns "
            "the other's adapter: take three or more a round"
        )
    if method.train == "full":
        raise JobError(f"{field}: it sums up LoRA adapters, and method.train is full: take lora")
    reads = {
        "trust.average": trust.average != "mean",
        "trust.clip_to_median": trust.clip_to_median is not None,
        "training.clip_update_norm": job.training.clip_update_norm is not None,
        "privacy.unit device": job.privacy.unit == "device",
    }
    for setting, needs in reads.items():
        if needs:
            raise JobError(
                f"{field}: {setting} needs the server to read each adapter, but it learns only "
                "their sum: leave one of them out"
            )
    if method.allocation.solver in ("asfl", "asfv", "auto") or ":" in method.allocation.solver:
        raise JobError(
            f"{field}: allocation.solver {method.allocation.solver!r} may give devices different "
            "cuts, whose adapters do not add up: take another"
        )
    if job.world is not None:
        raise JobError(
            f"{field}: in a world a device may be late, but it cannot be taken out of a sum: leave "
            "the world section out"
        )


def _check_label_noise(job: Job, spec: ModelSpec) -> None:
    if job.privacy.label_noise and spec.parts.language:
        raise JobError(
            f"privacy.label_noise: {spec.path} is a language model, whose targets are the texts "
            "themselves: leave it out"
        )
