"""Hands the record of a run to TensorBoard, MLflow or Weights & Biases, to be seen there.

Each comes with an extra of its name; nothing of them is loaded before it is asked for.
"""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cutlayer.errors import RunError
from cutlayer.job import Job
from cutlayer.record.early_stop import is_over
from cutlayer.record.folder import ADAPTER_FOLDER, JOB_FILE
from cutlayer.record.row_lines import row_of
from cutlayer.record.rows import Row
from cutlayer.record.tail import Tail
from cutlayer.reports.read_runs import read_job, run_folders
from cutlayer.reports.views.runs import settings_of

TRACKERS = ("tensorboard", "mlflow", "wandb")

_LOOK_EVERY_S = 1.0


class Tracker(Protocol):
    """A run at a tracker."""

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Write down the values of a round."""

    def close(self, adapter: Path | None) -> str:
        """End the run, with the folder of its adapter if there is one; where to look."""

    def fail(self) -> None:
        """End the run, marked as failed."""


def track(
    folder: str | Path,
    *,
    to: str,
    where: str | None = None,
    project: str = "cutlayer",
    follow: bool = False,
) -> str:
    """Send the record of the run in `folder` to a tracker; returns where to look at it.

    to: tensorboard, mlflow or wandb. where: of tensorboard the folder of event files (None:
    `tensorboard` in the run folder); of mlflow the tracking URI (None: as its environment says);
    of wandb the folder of its files. project: MLflow's experiment and Weights & Biases' project.
    follow: go on until the last round of the job is there. Raises RunError where the tracker is
    not installed or will not take the run.
    """
    folder = _one(Path(folder))
    job = read_job(folder)
    open_book = _opener(to)
    try:
        with _ended(open_book(folder, job, where, project)) as book:
            totals: dict[str, float] = {}
            for row in _rounds(folder, job, follow):
                book.note(row.round + 1, scalars(row, totals))
            adapter = folder / ADAPTER_FOLDER
            return book.close(adapter if adapter.is_dir() else None)
    except RunError:
        raise
    except Exception as error:  # whatever a tracker raises, it is the tracker that will not
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"--to: {to} does not take the run of {folder}: {line}") from None


@contextmanager
def _ended(book: Tracker) -> Iterator[Tracker]:
    """The tracker's run; it is marked as failed when an error or Ctrl-C ends this block."""
    try:
        yield book
    except BaseException:
        with suppress(Exception):  # what went wrong first is what is told
            book.fail()
        raise


def scalars(row: Row, totals: dict[str, float]) -> dict[str, float]:
    """What a round has measured as plain numbers; `totals` sums up over the calls of a run.

    Bytes in megabytes (1e6), times in seconds, energy in joules, accuracies as fractions.
    """
    spent = {"up_mb": row.up_bytes / 1e6, "down_mb": row.down_bytes / 1e6}
    if row.virtual_s is not None:
        spent |= {"virtual_s": row.virtual_s, "joules": sum(row.joules.values())}
    for name, value in spent.items():
        totals[name] = totals.get(name, 0.0) + value
    found: dict[str, float | None] = {
        "accuracy": row.accuracy,
        "accuracy_through_cut": row.accuracy_through_cut,
        "test_loss": row.test_loss,
        "test_samples": row.test_samples,
        "macro_f1": row.macro_f1,
        "perplexity": row.perplexity,
        "perplexity_through_cut": row.perplexity_through_cut,
        "loss": row.loss,
        "planned_s": row.planned_s,
        "ste": row.ste,
        "devices/took_part": len(row.decisions) - len(row.late) - len(row.lost),
        "devices/left_out": len(row.left_out),
        "devices/late": len(row.late),
        "devices/lost": len(row.lost),
        "generated_images": None if row.generated is None else sum(row.generated),
        **{f"round/{name}": value for name, value in spent.items()},
        **{f"total/{name}": value for name, value in totals.items()},
        **{f"wall_s/{stage}": value for stage, value in row.seconds.items()},
    }
    return {
        name: float(value)
        for name, value in found.items()
        if value is not None and math.isfinite(value)
    }


def _one(folder: Path) -> Path:
    found = run_folders(folder)
    if len(found) > 1:
        raise RunError(f"RUN: {folder} holds {len(found)} runs: name one at a time")
    return found[0]


def _rounds(folder: Path, job: Job, follow: bool) -> Iterator[Row]:
    """The rounds of a run; a damaged line is left out, with a warning at the end of a look."""
    tail, last, told = Tail(folder, partial(row_of, devices=job.devices.count)), -1, 0
    accuracy: dict[int, float | None] = {}
    while True:
        try:
            new = list(tail.rows())
        except (OSError, ValueError) as error:
            raise RunError(f"RUN: the record of {folder} cannot be read: {error}") from None
        if tail.damaged > told:
            told = tail.damaged
            warnings.warn(f"RUN: {told} lines of {tail.path} are no rounds: left out", stacklevel=2)
        for row in new:
            if row.round > last:  # a run that was resumed writes its record anew
                last = row.round
                accuracy[row.round + 1] = row.accuracy
                yield row
        if not follow or is_over(job.training, last + 1, accuracy):
            return
        time.sleep(_LOOK_EVERY_S)


def _opener(to: str) -> Callable[[Path, Job, str | None, str], Tracker]:
    if to not in TRACKERS:
        raise RunError(f"--to: {to!r} is none of {', '.join(TRACKERS)}")
    try:
        importlib.import_module(to)
    except ImportError:
        raise RunError(f"--to: {to} is not installed: pip install 'cutlayer[{to}]'") from None
    books: dict[str, Callable[[Path, Job, str | None, str], Tracker]] = {
        "tensorboard": _TensorBoard,
        "mlflow": _MLflow,
        "wandb": _WandB,
    }
    return books[to]


class _TensorBoard:
    def __init__(self, folder: Path, job: Job, where: str | None, project: str) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._where = Path(where) / folder.resolve().name if where else folder / "tensorboard"
        self._writer: Any = SummaryWriter(str(self._where))
        text = (folder / JOB_FILE).read_text(encoding="utf-8")
        self._writer.add_text("job", f"```\n{text}\n```")

    def note(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, adapter: Path | None) -> str:
        self._writer.close()
        return f"tensorboard --logdir {self._where}"

    def fail(self) -> None:
        self._writer.close()


class _MLflow:
    def __init__(self, folder: Path, job: Job, where: str | None, project: str) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        if where:
            mlflow.set_tracking_uri(where)
        mlflow.set_experiment(project)
        self._run: Any = mlflow.start_run(run_name=folder.resolve().name)
        try:
            # MLflow's own bound on a value is 6,000 characters.
            mlflow.log_params({path: str(value)[:500] for path, value in settings_of(job).items()})
            mlflow.log_artifact(str(folder / JOB_FILE))
        except BaseException:
            self.fail()
            raise

    def note(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self, adapter: Path | None) -> str:
        if adapter is not None:
            self._mlflow.log_artifacts(str(adapter), ADAPTER_FOLDER)
        self._mlflow.end_run()
        return f"mlflow run {self._run.info.run_id} at {self._mlflow.get_tracking_uri()}"

    def fail(self) -> None:
        self._mlflow.end_run(status="FAILED")


class _WandB:
    def __init__(self, folder: Path, job: Job, where: str | None, project: str) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=project,
            name=folder.resolve().name,
            config=job.model_dump(mode="json"),
            dir=where,
        )

    def note(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, adapter: Path | None) -> str:
        if adapter is not None:
            self._run.save(str(adapter / "*"), base_path=str(adapter.parent), policy="now")
        where = self._run.url or f"wandb sync {Path(self._run.dir).parent}"
        self._run.finish()
        return str(where)

    def fail(self) -> None:
        self._run.finish(exit_code=1)
