"""ASFL's rule for the cut and ASFV's joint choice, in seconds of a round; nothing is trained."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.fidelity import setting
from benchmarks.fidelity.page import Claim, Section, middle, table

from cutlayer.allocate import asfl, asfv
from cutlayer.allocate.asfv import VehicleProblem
from cutlayer.allocate.radio_math import Floats, rate
from cutlayer.model.residual import Conv, Map, layout
from cutlayer.settings.places import FleetSettings, MobilitySettings
from cutlayer.settings.world import WorldSettings
from cutlayer.world.world import World

RESNET18 = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
IMAGE_SIZE, SAMPLES = 32, 500
SERVER_FLOPS = 1e12
BAND_HZ = 50e6
FEW = 4  # ASFL's vehicles
EPOCHS = 5  # ASFL's
SPLITS = 9
FAST, SLOW = "jetson-nano", "phones"
FEDERATED = 9
ON_THE_ROAD = 20


@dataclass(frozen=True)
class Cuts:
    """Of the ResNet-18's nine split points, and of federated learning as the tenth.

    flops: of a sample forward on the device; activations: numbers of a sample that cross;
    parameters: of the device part; all_flops: of the whole network.
    """

    flops: Floats
    activations: Floats
    parameters: Floats
    all_flops: float


def section() -> Section:
    """ASFL on four parked vehicles, ASFV on a highway."""
    fast, slow, road, net = _few(FAST), _few(SLOW), _road(), cuts()
    fixed = road["by"]
    best = min(range(SPLITS), key=lambda cut: float(np.median(fixed[cut])))
    rates = ", ".join(
        f"cut {cut}: {fast['rates'][cut].mean() / 1e6:.0f}" for cut in asfl.PAPER_CUTS
    )
    claims = (
        Claim(
            "ASFL: a faster link cuts earlier",
            "thresholds R1 <= R2 <= R3 <= R4 choose cut 8, 6, 4, 2",
            f"mean Mbit/s of the vehicles at each cut: {rates}",
            "by construction; the thresholds are not given: ours are the quartiles of the rates",
        ),
        Claim(
            "ASFL: SL is the slowest, ASFL a little faster than FL",
            "in this order",
            f"slow processors: SL slowest in {_how_often(slow, 'SL')} of the draws, ASFL faster "
            f"than FL in {_how_often(slow, 'FL', 'ASFL')}; fast ones: {_how_often(fast, 'SL')} and "
            f"{_how_often(fast, 'FL', 'ASFL')}",
            "where computing takes the time, one vehicle after another is slowest; where the radio "
            "does, each in turn has all of the band and loses little. The rule gives the slowest "
            f"link the latest cut, whose model part of {4 * net.parameters[-1] / 1e6:.0f} MB has "
            "to be sent: FL sends no more",
        ),
        Claim(
            "ASFL: adapting the cut pays",
            "best in accuracy on non-IID data",
            f"in time, the fixed cut 4 is faster than ASFL's cuts in "
            f"{_how_often(slow, 'ASFL', 'SFL, cut 4')} of the draws (slow processors) and "
            f"{_how_often(fast, 'ASFL', 'SFL, cut 4')} (fast)",
            "the sum of activations and model part is least in the middle of this network; "
            "accuracy is not measured here",
        ),
        Claim(
            "ASFV: lower latency",
            "lower latency and energy (abstract)",
            f"equal shares and a fixed cut take {middle(fixed[best], 2)} times as long with the "
            f"best cut there is for all ({best}), {middle(fixed['each'], 2)} with each "
            "vehicle's own best cut",
            "no number is given to compare with",
        ),
        Claim(
            "ASFV: vehicles are selected",
            "online, under mobility",
            f"{sum(road['possible'])} of {sum(road['covered'])} vehicles in coverage can finish "
            "before they leave",
            "all others would be dropped by the deadline",
        ),
    )
    lines: list[dict[str, Any]] = [
        {"method": name, "slow": middle(slow["seconds"][name]), "fast": middle(times)}
        for name, times in fast["seconds"].items()
    ]
    columns = [
        {"cut": cut, "activations": f"{net_a:,.0f}", "parameters": f"{net_p / 1e6:.2f}",
         "ratio": middle(fixed[cut], 2)}
        for cut, (net_a, net_p) in enumerate(zip(net.activations, net.parameters, strict=True))
        if cut < SPLITS
    ]  # fmt: skip
    return Section(
        "Vehicles: ASFL and ASFV",
        "Latency only. A ResNet-18 with nine split points as Hugging Face builds it (its stem "
        f"shrinks a 32 x 32 image to 8 x 8), {SAMPLES} samples a vehicle, the peak speed of a "
        "Jetson Nano (fast) or of ST-SFLora's phones (slow), a server of "
        f"{SERVER_FLOPS / 1e12:g} TFLOP/s, {BAND_HZ / 1e6:g} MHz, the radio as above. ASFL: "
        f"{FEW} vehicles at rest, {EPOCHS} local epochs, equal shares. ASFV: {ON_THE_ROAD} "
        "vehicles on 2 km of a highway (140 km/h, coverage 500 m), fast, one epoch.",
        claims,
        "ASFL's setting, a round in seconds, median and range:\n\n"
        + table(
            lines,
            ("method", "method", "text"),
            ("slow", "slow processors", "text"),
            ("fast", "fast processors", "text"),
        )
        + "\nASFV's setting: a round with equal shares and one cut for all, over ASFV's with the "
        "same vehicles:\n\n"
        + table(
            columns,
            ("cut", "split point", "count"),
            ("activations", "numbers that cross, a sample", "text"),
            ("parameters", "device part (M parameters)", "text"),
            ("ratio", "times ASFV's latency", "text"),
        ),
    )


def _how_often(found: dict[str, Any], slower: str, faster: str | None = None) -> str:
    """In how many of the draws one method takes longer than another, or than all others."""
    times = {name: np.array(values) for name, values in found["seconds"].items()}
    others = (
        [times[name] for name in times if name != slower] if faster is None else [times[faster]]
    )
    return f"{100 * (times[slower] > np.max(others, axis=0)).mean():.0f} %"


def _few(preset: str) -> dict[str, Any]:
    """ASFL's four vehicles: seconds of a round by method, and link rates by the cut chosen."""
    problems = [vehicles(seed, FEW, EPOCHS, "static", SPLITS + 1, preset) for seed in setting.SEEDS]
    links = [_speeds(problem, BAND_HZ / FEW) for problem in problems]
    limits = np.quantile(np.concatenate(links), [0, 0.25, 0.5, 0.75])
    names = ("SL", "FL", "SFL, cut 2", "SFL, cut 4", "ASFL")
    found: dict[str, list[float]] = {name: [] for name in names}
    rates: dict[int, list[float]] = {cut: [] for cut in asfl.PAPER_CUTS}
    for problem, speed in zip(problems, links, strict=True):
        chosen = asfl.cut_by_rate(speed, limits)
        for cut, link in zip(chosen, speed, strict=True):
            rates[int(cut)].append(link)
        times = seconds(problem, BAND_HZ / FEW)
        found["SL"].append(float(seconds(problem, BAND_HZ)[:, 4].sum()))
        found["FL"].append(float(times[:, FEDERATED].max()))
        found["SFL, cut 2"].append(float(times[:, 2].max()))
        found["SFL, cut 4"].append(float(times[:, 4].max()))
        found["ASFL"].append(float(times[np.arange(FEW), chosen].max()))
    return {"seconds": found, "rates": {cut: np.array(v) for cut, v in rates.items()}}


def _road() -> dict[str, Any]:
    """ASFV on the highway: latency of simpler choices over its own, with the same vehicles."""
    by: dict[Any, list[float]] = {name: [] for name in (*range(SPLITS), "each")}
    possible, covered = [], []
    for seed in setting.SEEDS:
        problem = vehicles(seed, ON_THE_ROAD, 1, "highway", SPLITS)
        covered.append(len(problem.gain))
        possible.append(asfv.vehicles_possible(problem))
        if not possible[-1]:
            continue
        plan = asfv.solve(problem)
        count = int(plan.takes_part.sum())
        times = seconds(problem, BAND_HZ / count)[plan.takes_part] / plan.round_time_s
        for cut in range(SPLITS):
            by[cut].append(float(times[:, cut].max()))
        by["each"].append(float(times.min(axis=1).max()))
    return {"by": {k: np.array(v) for k, v in by.items()}, "possible": possible, "covered": covered}


def cuts() -> Cuts:
    """After the stem, after each of the eight blocks, and FL: everything there, nothing crosses."""
    net = layout({**RESNET18, "embedding_size": 64, "num_channels": 3}, IMAGE_SIZE)
    flops, parameters = [_flops(net.stem, net.stem_map)], [_weights(net.stem)]
    for block, before, after in zip(net.blocks, net.maps[:-1], net.maps[1:], strict=True):
        work, at = 0.0, before
        for conv in block.convs:
            at = at.through(conv)
            work += _flops(conv, at)
        beside = [] if block.shortcut is None else [block.shortcut]
        flops.append(work + sum(_flops(conv, after) for conv in beside))
        parameters.append(sum(_weights(conv) for conv in (*block.convs, *beside)))
    sums = np.cumsum([*flops, 0.0])
    sizes = np.array([*(crossing.numbers for crossing in net.maps), 0], dtype=np.float64)
    return Cuts(sums, sizes, np.cumsum([*parameters, 0.0]), float(sums[-1]))


def _flops(conv: Conv, made: Map) -> float:
    return 2.0 * conv.kernel**2 * conv.inputs * made.numbers


def _weights(conv: Conv) -> float:
    return conv.kernel**2 * conv.inputs * conv.outputs + 2.0 * conv.outputs


def vehicles(
    seed: int, count: int, epochs: int, kind: str, options: int, preset: str = FAST
) -> VehicleProblem:
    """A round for the vehicles in coverage, with the first `options` of `cuts`."""
    settings = WorldSettings(
        bandwidth_hz=BAND_HZ,
        reference_loss_db=setting.REFERENCE_LOSS_DB,
        fleet=FleetSettings(preset=preset),
        mobility=MobilitySettings(kind=kind, stay="straight" if kind == "highway" else "radial"),
    )
    world = World(settings, count, seed)
    state = world.state(0, 0.0)
    inside = np.flatnonzero(state.in_coverage)
    net, fleet = cuts(), world.fleet.take(inside)
    flops, parts = net.flops[:options], net.parameters[:options]
    # Backward is taken as twice forward.
    work = 3 * epochs * SAMPLES
    crossing, part = 32 * epochs * SAMPLES * net.activations[:options], 32 * parts
    down = state.downlink_bps[inside, None]
    return VehicleProblem(
        gain=state.gain_up[inside],
        power_max_w=fleet.power_max_w,
        energy_max_j=np.inf,
        time_max_s=state.stay_s[inside],
        fixed_time_s=work * flops / fleet.flops[:, None]
        + work * (net.all_flops - flops) / SERVER_FLOPS
        + (crossing + part) / down,
        upload_bits=crossing + part,
        compute_energy_j=0.0,
        bandwidth_total_hz=BAND_HZ,
        noise_w_per_hz=world.radio.noise_w_per_hz,
    )


def _speeds(problem: VehicleProblem, share_hz: float) -> Floats:
    """[M] bit/s with this much bandwidth at full power."""
    return rate(share_hz, problem.power_max_w, problem.gain / problem.noise_w_per_hz)


def seconds(problem: VehicleProblem, share_hz: float) -> Floats:
    """[M, C] time of each vehicle and split point with this much bandwidth at full power."""
    speed = _speeds(problem, share_hz)[:, None]
    times: Floats = problem.fixed_time_s + problem.upload_bits / speed
    return times
