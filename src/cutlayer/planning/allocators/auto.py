"""Ours: cut, tokens, bits, bandwidth and power together, at a measured quality."""

import numpy as np

from cutlayer.allocate import auto
from cutlayer.allocate.decision import Decision, tokens_of
from cutlayer.allocate.options import OptionProblem
from cutlayer.errors import AllocationError
from cutlayer.planning.calibration.record import Calibration
from cutlayer.planning.known.planning_input import Ints, PlanningInput, RoundDecisions


def solve(now: PlanningInput) -> RoundDecisions:
    """The cheapest setting of each device among those of enough measured quality.

    Quality is that of activations; gradients keep at least the method's own bits.
    """
    settings, method = now.allocation, now.job.method
    table = now.measures.calibration()
    cuts = _axis("cuts", table.cuts, settings.cuts)
    tokens = _axis("tokens", table.tokens, tuple(t or max(table.tokens) for t in settings.tokens))
    bits = _axis("bits", table.bits, settings.bits)
    plan = auto.solve(
        _problem(now, table, cuts, tokens, bits),
        time_weight=settings.time_weight,
        energy_weight=settings.energy_weight,
        bits_weight=settings.bytes_weight / 8,
        drop=True,
    )
    decisions, left_out = {}, {}
    most = now.loads.spec.patches
    for place, device in enumerate(now.devices):
        if not plan.takes_part[place]:
            left_out[device] = (
                "no setting of enough quality fits its memory, time and energy, or the band"
            )
            continue
        kept = int(table.tokens[tokens[plan.tokens[place]]])
        chosen = int(table.bits[bits[plan.bits[place]]])
        decisions[device] = Decision(
            int(table.cuts[cuts[plan.cut[place]]]),
            tokens_of(kept, most),
            chosen,
            max(chosen, method.downlink.bits),
            float(plan.bandwidth_hz[place]),
            float(plan.power_w[place]),
        )
    note = f"at most {100 * plan.gap:.2g} % above the cheapest there is"
    return RoundDecisions(decisions, left_out, plan.round_time_s, note=note)


def _axis(name: str, measured: tuple[int, ...], wanted: tuple[int, ...]) -> Ints:
    """Places in the calibration's axis of what the job allows; all where it names nothing."""
    missing = [value for value in wanted if value not in measured]
    if missing:
        raise AllocationError(
            f"method.allocation.{name}: {missing[0]} was not calibrated, only "
            f"{', '.join(map(str, measured))}: calibrate with --{name}, or take some of these"
        )
    allowed = wanted or measured
    return np.array([i for i, value in enumerate(measured) if value in allowed], dtype=np.int64)


def _problem(
    now: PlanningInput, table: Calibration, cuts: Ints, tokens: Ints, bits: Ints
) -> OptionProblem:
    """Costs of a sample are those of the round by the samples: the dearest where they differ."""
    samples = now.loads.samples_trained
    least = now.job.method.downlink.bits
    most = now.loads.spec.patches
    shape = (len(cuts), len(tokens), len(bits))
    up, down, served = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    flops, adapter, memory = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    broadcast = np.zeros(len(now.devices))
    for c, cut in enumerate(int(table.cuts[i]) for i in cuts):
        work = now.loads.forward_flops(cut) + now.loads.backward_flops(cut)
        flops[c] = (work / samples)[0]
        adapter[c], memory[c] = now.loads.adapter_bits(cut), now.loads.memory_bytes(cut)
        broadcast = np.maximum(broadcast, now.broadcast_s(cut))
        for k, kept in enumerate(int(table.tokens[i]) for i in tokens):
            keep = tokens_of(kept, most)
            served[c, k] = (now.loads.server_flops(cut, keep) / samples)[0] / now.server_flops
            for q, width in enumerate(int(table.bits[i]) for i in bits):
                up[c, k, q] = (now.loads.activations_bits(cut, keep, width) / samples).max()
                back = now.loads.gradient_bits(cut, keep, max(width, least))
                down[c, k, q] = (back / samples).max()
    return OptionProblem(
        gain=now.gain,
        power_max_w=now.fleet.power_max_w,
        energy_max_j=now.energy_cap_j,
        time_max_s=now.limit_s,
        fixed_time_s=broadcast,
        flops_per_s=now.fleet.flops,
        joules_per_flop=now.joules_per_flop,
        memory_max_bytes=now.fleet.memory_bytes,
        downlink_bps=now.state.downlink_bps,
        quality=table.quality()[np.ix_(cuts, tokens, bits)],
        device_flops=flops,
        payload_bits=up,
        memory_bytes=memory,
        server_time_s=served,
        downlink_bits=down,
        quality_min=now.allocation.quality_min,
        bandwidth_total_hz=now.bandwidth_hz,
        noise_w_per_hz=now.noise_w_per_hz,
        samples=samples,
        adapter_bits=adapter,
    )
