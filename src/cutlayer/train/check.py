"""Whether a job can run on its model: checked before anything is loaded."""

from cutlayer.errors import JobError
from cutlayer.job import Job
from cutlayer.model.families import ModelSpec


def check(job: Job, spec: ModelSpec) -> None:
    """Raise JobError for the first setting of the method that the model cannot meet."""
    method, keep = job.method, job.method.tokens.keep
    if not method.split or keep is None:
        return
    if keep > spec.patches:
        raise JobError(
            f"method.tokens.keep: {keep} is more than the {spec.patches} tokens of "
            f"{job.model.path} (besides {spec.prefix} that always cross): take 1 to "
            f"{spec.patches}, or null for all"
        )
    if job.model.cut == 0:
        raise JobError(
            "model.cut: 0 leaves no block on the device to score tokens with: take model.cut of 1 "
            "or more, or method.tokens.keep null"
        )
