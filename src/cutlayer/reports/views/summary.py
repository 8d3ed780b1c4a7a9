"""The job that was run and what came out, in a few figures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from cutlayer.drawing.style import digits
from cutlayer.job import Job, make_job
from cutlayer.record.data_file import FORMATS
from cutlayer.reports.views.pack import View
from cutlayer.reports.views.runs import Run, settings_of
from cutlayer.train.accounting import label_epsilon

_NAMED = 6
"""Devices that a note names at most."""


def headline(run: Run, reference: Run | None = None) -> View:
    """Accuracy, bytes, seconds and joules, each against a reference where there is one."""
    last = run.rows[-1]
    figures = [
        _figure("accuracy", _percent(run.accuracy), _accuracy_note(run, reference)),
        _amount(
            "sent up", run.up_bytes / 1e6, "MB", reference.up_bytes / 1e6 if reference else None
        ),
        _amount(
            "sent down",
            run.down_bytes / 1e6,
            "MB",
            reference.down_bytes / 1e6 if reference else None,
        ),
    ]
    if last.accuracy_through_cut is not None:
        through = _figure(
            "through the cut", _percent(last.accuracy_through_cut), "as it would serve"
        )
        figures.insert(1, through)
    perplexity = [row.perplexity for row in run.rows if row.perplexity is not None]
    if perplexity:
        served = last.perplexity_through_cut
        note = "exp of a token's loss"
        if served is not None:
            note += f"; {digits(served)} through the cut"
        figures.insert(1, _figure("perplexity", digits(perplexity[-1]), note))
    f1 = [row.macro_f1 for row in run.rows if row.macro_f1 is not None]
    if f1:
        figures.insert(1, _figure("macro F1", f"{100 * f1[-1]:.1f} %", "mean over classes"))
    if run.virtual_s is not None and run.joules is not None:
        theirs = reference.virtual_s if reference else None
        figures.append(_amount("time in its world", run.virtual_s, "s", theirs))
        figures.append(
            _amount("energy of devices", run.joules, "J", reference.joules if reference else None)
        )
    if run.own_bytes:
        total = run.up_bytes + run.down_bytes
        name, size = min(run.own_bytes.items(), key=lambda one: one[1])
        figures.append(
            _figure(
                "the samples themselves",
                f"{digits(size / 1e6)} MB",
                f"as {FORMATS[name]}, once; the run took {digits(total / size)} x",
            )
        )
    beyond = [sum(row.overhead_bytes) for row in run.rows if row.overhead_bytes is not None]
    if beyond:
        figures.append(_figure("beyond frames", _size(sum(beyond)), "on the network"))
    drawn = sum(sum(row.generated) for row in run.rows if row.generated)
    if drawn:
        figures.append(_figure("generated", f"{drawn:,}", "images trained on"))
    trained = sum(seconds for row in run.rows for seconds in row.seconds.values())
    if last.epsilon is not None:
        figures.append(
            _figure(
                "epsilon", digits(last.epsilon), f"of a {last.hidden_unit}, delta {last.delta:g}"
            )
        )
    figures.append(_figure("computed in", _clock(trained), "wall clock"))
    done, asked = len(run.rows), run.job.training.rounds
    turns = sum(len(row.decisions) for row in run.rows)
    notes = []
    if not run.over:
        notes.append(f"{done} of {asked} rounds: the run is not finished.")
    elif done < asked:
        notes.append(
            f"Stopped after {done} of {asked} rounds: accuracy had not risen for "
            f"{run.job.training.patience} (training.patience)."
        )
    if run.dropped:
        notes.append(
            f"{run.dropped} of {turns + sum(len(row.left_out) for row in run.rows)} turns of "
            "devices did not count: left out, too late, or lost."
        )
    notes += _scaled_down(run)
    notes += _noise(run)
    return {
        "kind": "headline",
        "id": "headline",
        "title": "What came out",
        "text": f"After {done} round{'s' * (done != 1)} on {run.job.devices.count} devices"
        + (f", against {reference.name}." if reference else "."),
        "data": {"figures": figures, "notes": notes},
    }


def _scaled_down(run: Run) -> list[str]:
    """Whose updates and tokens the server scaled down, the most first."""
    updates = Counter(device for row in run.rows for device in row.clipped)
    tokens = Counter[int]()
    for row in run.rows:
        tokens.update(row.clipped_tokens)
    found = []
    for counts, what, bounds in (
        (updates, "updates", "training.clip_update_norm, trust.clip_to_median"),
        (tokens, "tokens", "trust.clip_activations"),
    ):
        if counts:
            named = run.called(max(counts) + 1)
            whose = ", ".join(f"{named[d]} {n:,}" for d, n in counts.most_common(_NAMED))
            more = ", ..." if len(counts) > _NAMED else ""
            found.append(
                f"{counts.total():,} {what} were larger than their bound ({bounds}) and scaled "
                f"down to it: {whose}{more}."
            )
    return found


def _noise(run: Run) -> list[str]:
    """What noise hides of samples and labels, and what it does not."""
    privacy, found = run.job.privacy, []
    if run.rows[-1].epsilon is not None:
        found.append(
            f"Epsilon is of the exported adapter, for each {run.rows[-1].hidden_unit} of the "
            "device that took part most often; it says nothing of what the server sees."
        )
        if privacy.noise_from == "seed":
            found.append(
                "The noise follows from the job's seed (privacy.noise_from), so that whoever knows "
                "it can take the noise out again: an experiment, not a release."
            )
    if privacy.label_noise and run.classes:
        epsilon = digits(label_epsilon(privacy.label_noise, len(run.classes)))
        found.append(
            f"Of its labels each device replaced {100 * privacy.label_noise:.0f} % before it "
            f"trained (randomised response: epsilon {epsilon} for a label)."
        )
    return found


def job(run: Run) -> View:
    """The job's settings: those that are not the default first."""
    values, usual = settings_of(run.job), settings_of(_usual(run.job))
    rows = [
        {"path": path, "value": _text(value), "usual": _text(usual.get(path))}
        for path, value in values.items()
    ]
    changed = [row for row in rows if row["value"] != row["usual"]]
    one = run.job
    facts = {
        "method": one.method.name,
        "model": _model(run),
        "data": Path(one.data.path or one.data.source).name,
        "devices": f"{one.devices.count}, {one.devices.cohort} a round",
        "rounds": str(one.training.rounds),
        "world": _world(one),
        "seed": str(one.seed),
    }
    return {
        "kind": "job",
        "id": "job",
        "title": "The job",
        "text": f"{run.folder}: what differs from the defaults first, then every setting.",
        "data": {
            "facts": facts,
            "changed": changed,
            "same": [row for row in rows if row["value"] == row["usual"]],
        },
    }


def _usual(one: Job) -> Job:
    """The defaults of the job's method, with a world where the job has one.

    A method that is code of one's own is not run to be looked at: all its settings stand apart.
    """
    own = ":" in one.method.name
    values: dict[str, Any] = {} if own else {"method": one.method.name}
    if one.world is not None:
        values["world"] = {}
    return make_job(values)


def _model(run: Run) -> str:
    """The model's name and where it was really cut."""
    name = Path(run.job.model.path).name
    cuts = sorted({decision.cut for row in run.rows for decision in row.decisions.values()})
    if not run.job.method.split:
        return f"{name}, not cut"
    if len(cuts) > 1:
        return f"{name}, cut after {cuts[0]} to {cuts[-1]} blocks"
    return f"{name}, cut after block {cuts[0]}" if cuts[0] else f"{name}, cut after its embedding"


def _world(one: Job) -> str:
    if one.world is None:
        return "none: no radio, no clock"
    move = one.world.mobility.kind
    return f"{one.world.bandwidth_hz / 1e6:g} MHz, {one.world.path_loss}, {move} devices"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _size(count: float) -> str:
    """Bytes for people, in the unit that takes few digits."""
    return f"{digits(count / 1e6)} MB" if count >= 1e6 else f"{digits(count / 1e3)} kB"


def _figure(name: str, value: str, note: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _amount(name: str, value: float, unit: str, theirs: float | None) -> dict[str, str]:
    note = ""
    if theirs and value and digits(theirs / value) == "1.00":
        note = "the same"
    elif theirs and value:
        less = theirs >= value
        note = f"{digits(theirs / value if less else value / theirs)} x "
        note += "less" if less else "more"
    return _figure(name, f"{digits(value)} {unit}", note)


def _percent(value: float | None) -> str:
    return "not measured yet" if value is None else f"{100 * value:.1f} %"


def _points(value: float | None, reference: Run | None) -> str:
    if reference is None or reference.accuracy is None or value is None:
        return ""
    return f"{100 * (value - reference.accuracy):+.1f} points"


def _accuracy_note(run: Run, reference: Run | None) -> str:
    size = "" if run.test_samples is None else f"of {run.test_samples:,} test samples"
    return ", ".join(part for part in (_points(run.accuracy, reference), size) if part)


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{digits(seconds)} s"
    return f"{digits(seconds / 60)} min" if seconds < 7200 else f"{digits(seconds / 3600)} h"
