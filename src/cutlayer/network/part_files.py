"""A device's part of the model: which part it is, and how the device makes it itself."""

import os
from pathlib import Path

from cutlayer.errors import ModelError
from cutlayer.job import Job
from cutlayer.model.cut import Part
from cutlayer.model.part import write_part
from cutlayer.network.file_transfer import describe_files, folder_of
from cutlayer.network.transport.messages import Task


def part_of(job: Job) -> Part:
    """Which part of the model a device of the job runs."""
    return "device" if job.method.split else "whole"


def own_part(checkpoint: Path, job: Job, task: Task) -> Path:
    """The folder of the part's files, made from a checkpoint on this machine.

    Raises ModelError unless they are equal to the server's in every bit.
    """
    folder = folder_of(task.files)
    model = job.model.model_copy(update={"path": str(checkpoint), "cut": task.cut})
    made = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        if describe_files(write_part(made, model, job.seed, part_of(job))) != task.files:
            raise ModelError(
                f"--model: {checkpoint} is not the checkpoint that the server trains: take the "
                "same, or leave --model out to have the part sent"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for file in task.files:
            (made / file.name).replace(folder / file.name)
    finally:
        for path in made.glob("*"):
            path.unlink()
        made.rmdir()
    return folder
