"""Ours: cut, tokens, bits, precision, bandwidth and power together, at a measured quality."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cutlayer.allocate import auto
from cutlayer.allocate.decision import Decision, Setting, serves, tokens_of
from cutlayer.allocate.options import OptionProblem
from cutlayer.errors import AllocationError
from cutlayer.planning.calibration.record import Calibration
from cutlayer.planning.known.planning_input import Floats, Ints, PlanningInput, RoundDecisions
from cutlayer.planning.leakage.floor import little_enough, reidentified_at
from cutlayer.planning.leakage.record import first_weights, leakage_of
from cutlayer.settings.allocation import RATES
from cutlayer.settings.precision import Precision


def solve(known: PlanningInput) -> RoundDecisions:
    """The cheapest setting of each device among those of enough measured quality, and of little
    enough measured leakage where the job limits it.

    Quality depends on the cut, tokens and bits of activations, and on the precision of the device's
    blocks, where the job allows several; gradients keep at least the method's own bits. With a
    fitted codec, rates between the measured ones may be chosen too. Samples that the server already
    holds at a setting cost the device next to nothing there.
    """
    settings, method = known.allocation, known.job.method
    fitted = method.uplink.codec == "klt"
    tables = _tables(known)
    if fitted:
        rates = settings.rates or RATES
        tables = {one: between_rates(table, rates) for one, table in tables.items()}
    table = tables["float32"]
    cuts = _axis("cuts", table.cuts, settings.cuts)
    tokens = _axis("tokens", table.tokens, tuple(t or max(table.tokens) for t in settings.tokens))
    bits = np.arange(len(table.bits) - 1) if fitted else _axis("bits", table.bits, settings.bits)
    # Without a block nothing is computed faster, so that cut 0 is tried in float32 alone.
    ways = [(one, i) for one in tables for i in cuts if one == "float32" or table.cuts[i] > 0]
    shares = audited = None
    if settings.leakage_max is not None:
        audited = leakage_of(table.subject, first_weights(known.job))
        shares = reidentified_at(table, audited)
    plan = auto.solve(
        _problem(known, tables, ways, tokens, bits, shares),
        time_weight=settings.time_weight,
        energy_weight=settings.energy_weight,
        bits_weight=settings.bytes_weight / 8,
        drop=True,
    )
    decisions, left_out, leaked = {}, {}, 0.0
    most = known.loads.spec.patches
    for place, device in enumerate(known.devices):
        if not plan.takes_part[place]:
            kind = " in float32" if len(tables) > 1 and device in known.in_float32 else ""
            left_out[device] = (
                f"no setting{kind} of enough quality fits its memory, time and energy, or the band"
            )
            continue
        precision, cut = ways[int(plan.cut[place])]
        setting = (cut, tokens[plan.tokens[place]], bits[plan.bits[place]])
        kept = int(table.tokens[setting[1]])
        chosen = table.bits[setting[2]]
        if shares is not None:
            leaked = max(leaked, float(shares[setting]))
        up = method.uplink.bits if fitted else int(chosen)
        decisions[device] = Decision(
            int(table.cuts[setting[0]]),
            tokens_of(kept, most),
            up,
            method.downlink.bits if fitted else max(up, method.downlink.bits),
            float(plan.bandwidth_hz[place]),
            float(plan.power_w[place]),
            float(chosen) if fitted else None,
            precision,
        )
    note = (
        f"what the round costs, by the weights of method.allocation, is at most "
        f"{100 * plan.gap:.2g} % above the least there can be"
    )
    if audited is not None:
        note += (
            f"; of {audited.attacked} images like these {100 * leaked:.1f} % or fewer were "
            f"re-identified at these settings, by decoders trained for {audited.decoder_steps} "
            f"steps on {audited.public} others (method.allocation.leakage_max)"
        )
    return RoundDecisions(decisions, left_out, plan.round_time_s, note=note)


def _tables(known: PlanningInput) -> dict[Precision, Calibration]:
    """What was measured in each precision that some device can compute in, float32 first.

    Raises AllocationError where they were measured on different grids or samples, or with another
    adapter.
    """
    allowed = known.allocation.precisions
    if all(device in known.in_float32 for device in known.devices):
        allowed = ("float32",)
    tables = {one: known.measures.calibration(one) for one in allowed}
    why = None
    if len({(one.cuts, one.tokens, one.bits) for one in tables.values()}) > 1:
        why = "at different cuts, tokens or bits"
    elif len({(one.samples, one.seed, one.adapter) for one in tables.values()}) > 1:
        why = "on different samples or with another adapter"
    if why is not None:
        raise AllocationError(
            f"method.allocation.precisions: {' and '.join(allowed)} were calibrated {why}: run "
            "cutlayer calibrate with this job"
        )
    return tables


def between_rates(table: Calibration, rates: Sequence[float]) -> Calibration:
    """The calibration at rates from the least to the largest of `rates`, in steps of at most 1/6.

    Quality between two measured rates is interpolated linearly in the logarithm of the rate.
    """
    low, high = min(rates), max(rates)
    measured = [rate for rate in table.bits if rate < 32]
    if not measured or low < measured[0] or high > measured[-1]:
        raise AllocationError(
            f"method.allocation.rates: {low:g} to {high:g} bits a value were not calibrated, only "
            f"{', '.join(f'{rate:g}' for rate in measured) or 'none'}: run cutlayer calibrate with "
            "this job"
        )
    steps = 1 + math.ceil(math.log(high / low) / math.log(7 / 6))
    found = np.unique([*np.geomspace(low, high, steps), *(r for r in measured if low <= r <= high)])

    def at(values: Floats) -> Floats:
        line = values.reshape(-1, values.shape[-1])
        between = [np.interp(np.log(found), np.log(table.bits), one) for one in line]
        joined = np.concatenate([np.array(between), line[:, -1:]], axis=1)
        return joined.reshape(*values.shape[:-1], -1)

    return replace(
        table,
        bits=(*(float(rate) for rate in found), 32),
        agreement=at(table.agreement),
        divergence=at(table.divergence),
        accuracy=at(table.accuracy),
        bytes_per_sample=at(table.bytes_per_sample),
    )


def _axis(name: str, measured: tuple[float, ...], wanted: tuple[int, ...]) -> Ints:
    """Indices into the calibration's axis of the values that the job allows; all if it names
    none.
    """
    missing = [value for value in wanted if value not in measured]
    if missing:
        raise AllocationError(
            f"method.allocation.{name}: {missing[0]} was not calibrated, only "
            f"{', '.join(map(str, measured))}: calibrate with --{name}, or take some of these"
        )
    allowed = wanted or measured
    return np.array([i for i, value in enumerate(measured) if value in allowed], dtype=np.int64)


def _problem(
    known: PlanningInput,
    tables: Mapping[Precision, Calibration],
    ways: Sequence[tuple[Precision, int]],
    tokens: Ints,
    bits: Ints,
    shares: Floats | None,
) -> OptionProblem:
    """Costs per sample are those of the round divided by its samples; where devices differ, the
    largest. tables: by precision. ways: precisions with the places of cuts in these tables; each is
    a cut of the problem. shares: re-identified at each setting, where that is limited (then there
    is float32 alone).
    """
    settings, table = known.allocation, tables["float32"]
    survives, here = {one: found.quality() for one, found in tables.items()}, np.ix_(tokens, bits)
    quality = np.stack([survives[one][i][here] for one, i in ways])
    barred = None
    if len(tables) > 1:
        whole = np.array([device in known.in_float32 for device in known.devices])
        barred = whole[:, None] & np.array([one != "float32" for one, _ in ways])
    if shares is not None and settings.leakage_max is not None:
        leaks = np.stack([shares[i][here] for _, i in ways])
        allowed = little_enough(leaks, quality, settings.leakage_max, settings.quality_min)
        quality = np.where(allowed, quality, 0.0)
    samples, method = known.loads.samples_trained, known.job.method
    fitted, least = method.uplink.codec == "klt", method.downlink.bits
    most = known.loads.spec.patches
    shape = (len(ways), len(tokens), len(bits))
    up, down, served = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    held = np.zeros((len(known.devices), *shape), dtype=np.bool_)
    visited: dict[Setting, list[int]] = {}
    for place, device in enumerate(known.devices):
        if device in known.visited:
            visited.setdefault(known.visited[device], []).append(place)
    flops, adapter, memory = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    broadcast = np.zeros(len(known.devices))
    for c, (precision, place) in enumerate(ways):
        cut = int(table.cuts[place])
        work = known.loads.forward_flops(cut) + known.loads.backward_flops(cut)
        if precision != "float32":
            work = work / known.world.settings.fleet.speed(precision, cut)
        flops[c] = (work / samples)[0]
        adapter[c], memory[c] = known.loads.adapter_bits(cut), known.loads.memory_bytes(cut)
        broadcast = np.maximum(broadcast, known.broadcast_s(cut))
        for k, kept in enumerate(int(table.tokens[i]) for i in tokens):
            keep = tokens_of(kept, most)
            served[c, k] = (known.loads.server_flops(cut, keep) / samples)[0] / known.server_flops
            for q, width in enumerate(table.bits[i] for i in bits):
                up[c, k, q] = (known.loads.activations_bits(cut, keep, width) / samples).max()
                returned = least if fitted else max(int(width), least)
                back = known.loads.gradient_bits(cut, keep, returned)
                down[c, k, q] = (back / samples).max()
                wanted = Setting(cut, keep, width, precision)
                for setting, places in visited.items():
                    held[places, c, k, q] = serves(setting, wanted, method)
    return OptionProblem(
        gain=known.gain,
        power_max_w=known.fleet.power_max_w,
        energy_max_j=known.energy_cap_j,
        time_max_s=known.limit_s,
        fixed_time_s=broadcast,
        flops_per_s=known.fleet.flops,
        joules_per_flop=known.joules_per_flop,
        memory_max_bytes=known.fleet.memory_bytes,
        downlink_bps=known.state.downlink_bps,
        quality=quality,
        device_flops=flops,
        payload_bits=up,
        memory_bytes=memory,
        server_time_s=served,
        downlink_bits=down,
        quality_min=settings.quality_min,
        bandwidth_total_hz=known.bandwidth_hz,
        noise_w_per_hz=known.noise_w_per_hz,
        numbers=known.numbers,
        samples=samples,
        adapter_bits=adapter,
        held=held,
        barred=barred,
        named_bits=_named_bits(known) if held.any() else 0.0,
    )


def _named_bits(known: PlanningInput) -> float:
    """Bits that a device sends for a sample that the server already holds: only its name."""
    named = known.loads.visit_bits(known.job.cut, None, 1, first=False)
    return float((named / known.loads.samples_trained).max())
