"""Computes anew from a run's job what its record does not hold: timelines, places, patches."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from cutlayer.errors import CutlayerError
from cutlayer.job import Job
from cutlayer.record.folder import ROSTER_FILE, STATE_FILE
from cutlayer.record.rows import MOST_MEASURED
from cutlayer.record.told_devices import read_told
from cutlayer.reports.views.runs import Holdings, Run


def again(run: Run, images: int, share: int, read: Callable[[str], Any] | None = None) -> Run:
    """The run with what its job gives again; what fails is named in `missing`.

    share: how many runs share a page's room. read: loads the data and the model of a job.
    """
    from cutlayer.reports import replay
    from cutlayer.rounds.run_stages import spec_of_run

    missing: dict[str, str] = {}

    def attempt(view: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except CutlayerError as error:
            missing[view] = str(error)
        # What a record says may not fit its job: then the view is not there, and the rest is.
        except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
            missing[view] = f"the record does not fit the job ({type(error).__name__}: {error})"
        return None

    job, rows = run.job, run.rows
    spec = attempt("gantt", lambda: spec_of_run(job, rows))
    timed = job.world is not None and any(row.virtual_s is not None for row in rows)
    if job.world is None:
        missing["gantt"] = missing["fleet"] = (
            "the job has no world (add --set world={} to one), so there is no clock and no radio"
        )
    elif not timed:
        missing["gantt"] = missing["fleet"] = "the run took place on a real network, not in a world"
    if job.method.pooled:
        missing["fleet"] = f"{job.method.name} trains on one party that holds all data"
    named = [name for name in job.world.own_code.values() if ":" in name] if job.world else []
    if timed and named:
        timed = False
        missing["gantt"] = missing["fleet"] = (
            f"the job's world is made by code ({', '.join(named)}), which is not run to look at a "
            "run"
        )
    rounds = places = None
    if timed and spec is not None:
        rounds = attempt("gantt", lambda: replay.timelines(job, spec, rows, share))
    if timed and not job.method.pooled:
        places = attempt("fleet", lambda: replay.places(job, rows, share))
    parts = attempt("labels", lambda: (read or load_for_views)(_loads(job)))
    holdings = patches = None
    if parts is not None:
        holdings = attempt("labels", lambda: _holdings(run, parts))
        patches = attempt("patches", lambda: _patches(run, parts, images))
    else:
        missing["patches"] = missing["labels"]
    whole = spec.tokens_at(job.cut) - spec.prefix if spec is not None else 0
    return replace(
        run,
        whole=whole,
        holdings=holdings,
        rounds=rounds or (),
        places=places,
        patches=patches,
        missing=missing,
    )


def _holdings(run: Run, parts: Any) -> Holdings:
    """Who holds which labels: by the job, or as the devices of a network told.

    Raises CutlayerError where none of them did.
    """
    classes = parts.train.classes
    if not (run.folder / ROSTER_FILE).is_file():
        held = parts.counts
        shown = held.first(MOST_MEASURED)
        return Holdings(classes, shown, devices=held.devices, samples=held.samples)
    told = read_told(run.folder, run.job.devices.count, len(classes))
    counts = np.zeros((run.job.devices.count, len(classes)), dtype=np.int64)
    known = {number: one.labels for number, one in told.items() if one.labels is not None}
    if not known:
        raise CutlayerError(
            "the devices have data of their own, and tell the server its labels only where it "
            "trains on generated images (add a generated section to the job)"
        )
    for number, labels in known.items():
        counts[number] = labels
    return Holdings(classes, counts, tuple(sorted(known)))


def _loads(job: Job) -> str:
    """What of a job says which data and model are loaded, to load them once for many runs."""
    plain = job.model_dump(mode="json", exclude={"world", "training", "method"})
    return Job.model_validate({**plain, "method": {"train": job.method.train}}).model_dump_json()


def load_for_views(text: str) -> Any:
    """The data and the model of a job's JSON: what `again` is given to load them by."""
    from cutlayer.train.parts import load_parts

    return load_parts(Job.model_validate_json(text))


def _patches(run: Run, parts: Any, images: int) -> Any:
    from cutlayer.record.checkpoint import load_state
    from cutlayer.reports import replay

    if images < 1:
        raise CutlayerError("no images were asked for (--images 0)")
    if ":" in run.job.method.tokens.score:
        raise CutlayerError(
            f"method.tokens.score is code ({run.job.method.tokens.score}), which is not run to "
            "look at a run"
        )
    if not run.job.method.split:
        raise CutlayerError(f"{run.job.method.name} does not cut the model")
    decisions = [one for row in run.rows for one in row.decisions.values() if one.cut]
    if not decisions:
        raise CutlayerError("the model is cut before its first block: no attention ranks patches")
    if not (run.folder / STATE_FILE).is_file():
        raise CutlayerError(f"the folder has no {STATE_FILE} with the trained adapter")
    state = load_state(run.folder / STATE_FILE)
    adapter = next(iter(state.kept.values()), state.adapter)
    adapter = {name: tensor.to(parts.model.compute) for name, tensor in adapter.items()}
    cut = statistics.mode(one.cut for one in decisions)
    keep = statistics.mode(one.tokens for one in decisions)
    return replay.patches(run.job, parts, adapter, cut, images, keep)
