"""Whether a job can run on its model: checked before anything is loaded."""

from collections.abc import Sequence

from cutlayer.errors import JobError
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec, check_train
from cutlayer.own_code import refresh
from cutlayer.train.check_changes import why_no_changes
from cutlayer.train.check_light import check_precisions, check_speeds
from cutlayer.train.check_privacy import check_privacy
from cutlayer.train.check_tail import check_tail
from cutlayer.train.reuse import why_not
from cutlayer.train.unread import refuse_unread
from cutlayer.wire.custom_levels import known_levels
from cutlayer.wire.headers import MAX_WIDTH


def check(job: Job, spec: ModelSpec) -> None:
    """Raise JobError for the first setting that cannot work or has no effect in this job.

    A user's code is loaded again if its file changed.
    """
    refresh(job.own_code)
    check_train(spec, job.method.train)
    if job.method.aggregate == "none" and job.method.split:
        raise JobError(
            "method.aggregate: none averages nothing, so the server's part of a split model would "
            "be lost: take fedavg, or method.split false"
        )
    if job.training.image_augmentation and spec.modality != "image":
        raise JobError(
            f"training.image_augmentation: {job.model.path} reads texts, not images: leave it out"
        )
    if job.training.checkpointing and job.method.train == "full":
        raise JobError(
            "training.checkpointing: with method.train full each pass has its own weights, which "
            "are no longer there in the backward pass: leave it out, or take method.train lora"
        )
    _check_compiled(job)
    if job.training.packing and not spec.parts.language:
        raise JobError(
            f"training.packing: is for language models, but {job.model.path} is none: leave it out"
        )
    if job.training.loss_on != "answers" and not spec.parts.language:
        raise JobError(
            f"training.loss_on: {job.training.loss_on!r} is for language models, but "
            f"{job.model.path} is none: leave it out"
        )
    if job.method.uplink.known_tokens and not spec.parts.language:
        raise JobError(
            "method.uplink.known_tokens: labels name tokens of language models alone, but "
            f"{job.model.path} is none: leave it out"
        )
    if job.has_tail:
        check_tail(job, spec)
    elif job.method.split and spec.parts.language:
        _check_server_trains(job, spec)
    if job.method.split:
        _check_tokens(job, spec)
        _check_cuts(job, spec)
    _check_allocation(job)
    _check_average(job)
    check_privacy(job, spec)
    _check_generated(job, spec)
    refuse_unread(job, spec.modality)
    check_precisions(job, spec)
    check_speeds(job)


def _check_compiled(job: Job) -> None:
    """Raise JobError for a setting that changes how blocks run and cannot be compiled."""
    not_compiled = {
        "model.tail": job.has_tail,
        "model.frozen_bits": job.model.frozen_bits < 32,
        "training.packing": job.training.packing,
        "training.checkpointing": job.training.checkpointing,
    }
    for setting, given in not_compiled.items():
        if job.training.compile and given:
            raise JobError(
                f"training.compile: passes are not compiled with {setting}: leave one of the two "
                "out"
            )


def _check_server_trains(job: Job, spec: ModelSpec) -> None:
    """Raise JobError if nothing of a language model after the cut is trained."""
    if job.model.lora.side == "device":
        raise JobError(
            f"model.lora.side: 'device' leaves the server nothing to train, since the head of "
            f"{spec.path} is frozen: take both or server"
        )
    for field, cuts in {"model.cut": [job.cut], "method.allocation.cuts": _cuts(job)}.items():
        if spec.depth in cuts:
            raise JobError(
                f"{field}: {spec.depth} leaves the server nothing to train, since the head of "
                f"{spec.path} is frozen: take 0 to {spec.depth - 1}"
            )


def _cuts(job: Job) -> Sequence[int]:
    """The cuts that the allocator may choose; none if it chooses no cut."""
    return job.method.allocation.cuts if job.method.allocation.solver != "equal" else ()


def _check_tokens(job: Job, spec: ModelSpec) -> None:
    if ":" in job.method.tokens.score:
        from cutlayer.model import attention  # imports torch, which planning otherwise avoids

        attention.find_score(job.method.tokens.score)
    for name, side in (("uplink", job.method.uplink), ("downlink", job.method.downlink)):
        known_levels(side.levels, f"method.{name}.levels")
    _check_codecs(job, spec)
    keep = job.method.tokens.keep
    ranks = job.method.allocation.solver in ("st-sflora", "exact")
    if spec.why_all_tokens is not None and (ranks or keep is not None):
        raise JobError(
            f"method.tokens.keep: {job.model.path} {spec.why_all_tokens}: take null, and an "
            "allocation.solver that chooses no tokens"
        )
    if job.method.tokens.score == "cls" and not spec.prefix and (ranks or keep is not None):
        raise JobError(
            f"method.tokens.score: 'cls' but {job.model.path} has no CLS token: take received"
        )
    if keep is None:
        return
    if keep > spec.patches:
        raise JobError(
            f"method.tokens.keep: {keep} is more than the {spec.patches} tokens of "
            f"{job.model.path} (besides {spec.prefix} that always cross): take 1 to "
            f"{spec.patches}, or null for all"
        )
    if job.cut == 0:
        raise JobError(
            "model.cut: 0 leaves no block on the device to score tokens with: take model.cut of 1 "
            "or more, or method.tokens.keep null"
        )


def _check_codecs(job: Job, spec: ModelSpec) -> None:
    for field in ("reuse", "variants", "change"):
        if getattr(job.method.downlink, field):
            raise JobError(
                f"method.downlink.{field}: gradients differ in every round: leave it out, or set "
                f"method.uplink.{field}"
            )
    reason = why_not(job)
    if job.method.uplink.reuse and reason is not None:
        raise JobError(f"method.uplink.reuse: a sample's activations change: {reason}")
    reason = why_no_changes(job, spec.modality)
    if job.method.split and job.method.uplink.change and reason is not None:
        raise JobError(f"method.uplink.change: {reason}")
    width = spec.width_at(job.cut)
    for side in ("uplink", "downlink"):
        if getattr(job.method, side).codec == "klt" and width > MAX_WIDTH:
            raise JobError(
                f"method.{side}.codec: 'klt' takes tensors of up to {MAX_WIDTH} channels, and "
                f"{job.model.path} has {width} at its cut: take quantize"
            )
    if job.method.uplink.codec == "klt" and job.method.allocation.solver == "sflam":
        raise JobError(
            "method.uplink.codec: 'klt' divides the bits itself, but allocation.solver 'sflam' "
            "chooses by the error of equal steps: take solver auto, or codec quantize"
        )


def _check_cuts(job: Job, spec: ModelSpec) -> None:
    named = {"method.cut": [job.cut], "method.allocation.cuts": job.method.allocation.cuts}
    for field, cuts in named.items():
        for cut in cuts:
            if cut > spec.depth:
                raise JobError(
                    f"{field}: {cut} is beyond the {spec.depth} blocks of {job.model.path}: take "
                    f"0 to {spec.depth}"
                )
    moves = job.cut != job.model.cut or job.method.allocation.solver in ("asfl", "asfv", "auto")
    if moves and job.model.lora.side != "both":
        raise JobError(
            f"model.lora.side: {job.model.lora.side!r} goes by model.cut, but method "
            f"{job.method.name} cuts elsewhere: take side both, or method.device frozen"
        )


def _check_allocation(job: Job) -> None:
    solver = job.method.allocation.solver
    if solver == "equal" or job.method.pooled:
        return
    if job.world is None:
        raise JobError(
            f"method.allocation.solver: {solver!r} allocates a radio, but the job has no world: "
            "add a world section (--set world={} takes its defaults), or take solver equal"
        )
    if job.method.order == "sequential":
        raise JobError(
            f"method.allocation.solver: {solver!r} shares the band among devices side by side, "
            "but method.order is sequential: take order parallel, or solver equal"
        )
    if job.world.max_bps_per_hz is not None and solver != "asfl":
        raise JobError(
            f"world.max_bps_per_hz: {job.world.max_bps_per_hz:g} is a cap that solver {solver!r} "
            "ignores: leave it out, or take method.allocation.solver equal"
        )


def _check_average(job: Job) -> None:
    """Raise JobError if a round has too few devices for the number of hostile ones."""
    average, hostile, cohort = job.trust.average, job.trust.hostile, job.devices.cohort
    if job.method.pooled or job.method.aggregate == "none" or job.method.order == "sequential":
        return
    needed = {"trimmed-mean": 2 * hostile + 1, "krum": 2 * hostile + 3}.get(average, 1)
    if cohort < needed:
        raise JobError(
            f"trust.hostile: {average} needs rounds of {needed} devices or more to withstand "
            f"{hostile} hostile ones, and this job's have {cohort}: take more devices a round, or "
            "fewer hostile ones"
        )
    if average == "krum" and job.method.allocation.solver in ("asfl", "asfv", "auto"):
        raise JobError(
            "trust.average: krum compares whole adapters, but allocation.solver "
            f"{job.method.allocation.solver!r} gives devices different cuts: take median or "
            "trimmed-mean"
        )


def _check_generated(job: Job, spec: ModelSpec) -> None:
    method = job.method
    if method.generated and job.generated is None:
        raise JobError(
            f"generated: method {method.name} trains on generated data, but the job has no "
            "generated section: add one, as in generated: {generator: {source: demo}}, or take "
            "method.generated false"
        )
    if method.generated and job.generated_in_use is None:
        raise JobError(
            f"method.generated: method {method.name} has no average that training on generated "
            "data could join: take method.generated false"
        )
    if job.generated_in_use and spec.modality != "image":
        raise JobError(
            f"generated: {job.model.path} reads texts, and generators draw images: leave generated "
            "out, or take method.generated false"
        )
