"""The record of a run as plain rows, a dict each: for data frames and CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from cutlayer.allocate.round_shape import Traffic
from cutlayer.record.rows import Row

_BYTES = tuple(f"{field.name}_bytes" for field in fields(Traffic))


def by_round(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row for each round, which are counted from 1, as everywhere that people read.

    Shares are fractions; bytes, seconds and joules are sums over devices. None: not measured.
    """
    return [
        {
            "round": row.round + 1,
            "devices": len(row.decisions),
            "left_out": len(row.left_out),
            "late": len(row.late),
            "lost": len(row.lost),
            "samples": sum(row.samples_trained.values()),
            "loss": row.loss,
            "accuracy": row.accuracy,
            "accuracy_through_cut": row.accuracy_through_cut,
            "macro_f1": row.macro_f1,
            "test_loss": row.test_loss,
            "perplexity": row.perplexity,
            "perplexity_through_cut": row.perplexity_through_cut,
            "up_bytes": row.up_bytes,
            "down_bytes": row.down_bytes,
            "virtual_s": row.virtual_s,
            "planned_s": row.planned_s,
            "joules": sum(row.joules.values()) if row.virtual_s is not None else None,
            "ste": row.ste,
            "computed_s": sum(row.seconds.values()),
        }
        for row in rows
    ]


def by_device(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row for each turn of a device: what was decided for it, and what it then did.

    became: trained, late, lost, or left out, for which `why` is the reason. Bits are of a value,
    bandwidth in Hz, power in W. None: not decided or not measured. precision: the numbers in which
    the device computed, in a run where these are not float32 throughout.
    """
    found = []
    others = any(one.precision != "float32" for row in rows for one in row.decisions.values())
    for row in rows:
        for device, one in row.decisions.items():
            traffic = row.traffic.get(device, [])
            became = "lost" if device in row.lost else "late" if device in row.late else "trained"
            found.append(
                {
                    "round": row.round + 1,
                    "device": device,
                    "became": became,
                    "why": None,
                    "cut": one.cut,
                    "tokens": one.tokens,
                    "bits_up": one.bits_up,
                    "bits_down": one.bits_down,
                    "bandwidth_hz": one.bandwidth_hz,
                    "power_w": one.power_w,
                    "rate_bits": one.rate_bits,
                    **({"precision": one.precision} if others else {}),
                    "samples": row.samples_trained.get(device),
                    "steps": row.steps.get(device),
                    "loss": row.device_loss.get(device),
                    **dict(zip(_BYTES, traffic, strict=False)),
                    "joules": row.joules.get(device),
                }
            )
        for device, why in row.left_out.items():
            found.append(
                {"round": row.round + 1, "device": device, "became": "left out", "why": why}
            )
    return found
