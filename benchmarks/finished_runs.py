"""Runs of a benchmark in processes of their own, which go on where they were broken off."""

import os
import subprocess
import sys
from pathlib import Path

from cutlayer.job import Job, dump_job


def finish_run(job: Job, folder: Path) -> None:
    """Train a job into `folder`, or go on there if it was begun.

    The job and the run's log lie beside the folder, as FOLDER.yaml and FOLDER.log. One thread is
    used unless OMP_NUM_THREADS says otherwise. Raises CalledProcessError.
    """
    command = [sys.executable, "-m", "cutlayer", "simulate"]
    if (folder / "job.yaml").exists():
        command += ["--resume", str(folder)]
    else:
        path = folder.with_name(f"{folder.name}.yaml")
        path.write_text(dump_job(job))
        command += [str(path), "--out", str(folder)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with folder.with_name(f"{folder.name}.log").open("w") as log:
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
