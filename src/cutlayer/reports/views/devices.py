"""Who holds which labels, how well each device is served, and how often it took part."""

from __future__ import annotations

from collections import Counter

import numpy as np

from cutlayer.record.rows import MOST_MEASURED
from cutlayer.reports.views.pack import View, pack, plain
from cutlayer.reports.views.runs import Holdings, Run


def labels(run: Run, holdings: Holdings) -> View:
    """Samples by device and label, of the devices whose labels are known."""
    counted, classes = holdings.counts.shape
    known = np.arange(counted) if holdings.known is None else np.array(holdings.known)
    some = (holdings.counts[known] > 0).sum(axis=1)
    shown = holdings.counts[:MOST_MEASURED]
    devices = counted if holdings.devices is None else holdings.devices
    samples = int(holdings.counts.sum()) if holdings.samples is None else holdings.samples
    on = f"{devices} devices"
    if len(known) < counted:
        on = f"the {len(known)} of {counted} devices that share their labels"
    one = "a device" if counted == devices else f"of the first {counted:,} a device"
    held = f"{some.min()}" if some.min() == some.max() else f"{some.min()} to {some.max()}"
    return {
        "kind": "labels",
        "id": "labels",
        "title": "Who holds which labels",
        "text": f"{samples:,} training samples on {on}; {one} holds {held} of {classes} labels.",
        "data": {
            "classes": list(holdings.classes),
            "counts": pack(shown.T),
            "samples": shown.sum(axis=1).tolist(),
            "names": run.called(len(shown)),
        },
    }


def devices(run: Run) -> View:
    """By device: the last accuracy on its own held-out samples and on its own mix of labels, and
    what became of its turns.
    """
    fleet = 1 if run.job.method.pooled else run.job.devices.count
    count = min(fleet, MOST_MEASURED)
    measured = [row for row in run.rows if row.label_mix_accuracy]
    accuracy = measured[-1].label_mix_accuracy if measured else []
    took, late = Counter[int](), Counter[int]()
    lost, out = Counter[int](), Counter[int]()
    for row in run.rows:
        missed = {*row.late, *row.lost}
        took.update(device for device in row.decisions if device not in missed)
        late.update(set(row.late) - set(row.lost))
        lost.update(set(row.lost))
        out.update(list(row.left_out))
    drawn = len({*took, *late, *lost, *out})
    text = f"{drawn} of {fleet} devices were drawn at least once"
    if count < fleet:
        text += f" (shown are the first {count:,})"
    if measured:
        values = 100 * np.array([value for value in accuracy if value is not None])
        text += (
            f"; after round {measured[-1].round + 1} accuracy on the test set, weighted by a "
            f"device's own mix of labels, is {values.min():.0f} to {values.max():.0f} %, "
            f"{values.mean():.1f} % in the mean"
        )
    held_out = [row for row in run.rows if row.held_out_accuracy]
    own = held_out[-1].held_out_accuracy if held_out else []
    found = [100 * value for value in own if value is not None]
    if found:
        text += (
            f"; on its own held-out samples ({sum(held_out[-1].held_out_samples):,} in all) "
            f"{min(found):.0f} to {max(found):.0f} %, {sum(found) / len(found):.1f} % in the mean"
        )
    reasons = Counter(reason for row in run.rows for reason in row.left_out.values())
    return {
        "kind": "devices",
        "id": "devices",
        "title": "Device by device",
        "text": text + ".",
        "data": {
            "accuracy": plain([None if value is None else 100 * value for value in accuracy]),
            "held_out": plain([None if value is None else 100 * value for value in own]),
            "held_out_samples": held_out[-1].held_out_samples if held_out else [],
            "turns": {
                "took part": [took[device] for device in range(count)],
                "too late": [late[device] for device in range(count)],
                "lost": [lost[device] for device in range(count)],
                "left out": [out[device] for device in range(count)],
            },
            "reasons": reasons.most_common(6),
            "names": run.called(count),
            "over_rounds": _over_rounds(run),
        },
    }


def _over_rounds(run: Run) -> View | None:
    """Accuracy [M, rounds] of every device, each time it was measured."""
    measured = [row for row in run.rows if row.label_mix_accuracy]
    if len(measured) < 2:
        return None
    most = max(2, 100_000 // len(measured[0].label_mix_accuracy))
    step = -(-len(measured) // most)
    kept = measured[::-1][::step][::-1]  # the last one is always among them
    return {
        "rounds": [row.round + 1 for row in kept],
        "values": pack(
            100 * np.array([row.label_mix_accuracy for row in kept], dtype=np.float64).T
        ),
    }
