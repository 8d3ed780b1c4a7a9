"""Which settings a job reads: a table of the settings that only some jobs read, and when.

A setting that is not in the table is read by every job. Where a method's own settings, or others
of the same section, say that one is not read, it is refused; where only the method goes without
it, as `fedlora` without a cut, it is said, since other methods of the same job may read it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cutlayer.job import Job

CHOOSES_CUTS = ("asfl", "asfv", "auto")
CHOOSES_TOKENS = ("st-sflora", "exact", "auto")
CHOOSES_BITS = ("sflam", "auto")


@dataclass(frozen=True)
class Condition:
    """When settings are read. otherwise: why not, as the end of a sentence, with the remedy.

    said_only: reported and not refused, since another method, or the same job in a world, reads
    them.
    """

    holds: Callable[[Job], bool]
    otherwise: str
    said_only: bool = False


def _solver(job: Job) -> str:
    """What allocates in this job: without a world, or with the data in one place, nothing does."""
    return "equal" if job.method.pooled else job.method.allocation.solver


def _is_own(job: Job) -> bool:
    """Whether the allocator is one's own, which may read and choose anything."""
    return ":" in _solver(job)


def _chosen(job: Job, solvers: tuple[str, ...]) -> bool:
    return _solver(job) in solvers


def _gradients_return(job: Job) -> bool:
    """Whether a device trains anything before a cut, so that gradients come back to it."""
    if not job.method.split or job.method.device == "frozen":
        return False
    if job.method.train == "full":
        return True
    moves = _chosen(job, CHOOSES_CUTS) or _is_own(job)
    return job.model.lora.side != "server" and (moves or job.cut > 0)


def _adapters_travel(job: Job) -> bool:
    trains = not job.method.split or job.has_tail or _gradients_return(job)
    return job.method.aggregate != "none" and not job.method.pooled and trains


def _quantised(job: Job, side: str) -> bool:
    bits: int = getattr(job.method, side).bits
    return bits <= 8 or _chosen(job, CHOOSES_BITS) or _is_own(job)


_SPLIT = Condition(
    lambda job: job.method.split,
    "the method does not split the model, and nothing crosses a cut: leave it out, or take a "
    "method that splits",
)
_SPLIT_HERE = Condition(_SPLIT.holds, _SPLIT.otherwise, said_only=True)
_RETURNS = Condition(
    _gradients_return,
    "no gradient comes back to a device that trains nothing before the cut: leave it out, or take "
    "method.device trained, a cut of 1 or more and lora.side both",
)
_RETURNS_OR_TAIL = Condition(
    lambda job: _gradients_return(job) or (job.has_tail and job.method.tail_downlink is None),
    _RETURNS.otherwise,
)
_TAIL = Condition(
    lambda job: job.has_tail,
    "the server runs the last blocks: leave it out, or set model.tail",
)
_RADIO = Condition(
    lambda job: not job.method.pooled,
    "the method has all data in one place and allocates nothing: leave it out",
)


def _of(*solvers: str) -> tuple[Condition, ...]:
    """Read by these allocators, and by one's own."""
    names = " or ".join(solvers)
    read = Condition(
        lambda job: _chosen(job, solvers) or _is_own(job),
        f"only method.allocation.solver {names} reads it: leave it out, or take that solver",
    )
    return (_RADIO, read)


def _where(holds: Callable[[Job], bool], needed: str) -> tuple[Condition, ...]:
    """Read with other settings of the same kind."""
    return (Condition(holds, f"it needs {needed}: leave it out, or set that"),)


def _not_chosen(what: str, solvers: tuple[str, ...]) -> Condition:
    return Condition(
        lambda job: not _chosen(job, solvers),
        f"the method's allocation.solver chooses {what} of each device: leave it out, or take "
        "another solver",
    )


def _ranked(job: Job) -> bool:
    chosen = _chosen(job, CHOOSES_TOKENS) or _is_own(job)
    return chosen or job.method.tokens.keep is not None


def _quantizer(side: str, first: Condition) -> dict[str, tuple[Condition, ...]]:
    """The settings of one way through the cut."""

    def codec(job: Job) -> str:
        named: str = getattr(job.method, side).codec
        return named

    plain = Condition(
        lambda job: codec(job) == "quantize",
        f"codec klt does not read it: leave it out, or take method.{side}.codec quantize",
    )
    fitted = Condition(
        lambda job: codec(job) == "klt",
        f"codec quantize does not read it: leave it out, or take method.{side}.codec klt",
    )
    aimed = Condition(
        lambda job: getattr(job.method, side).step == "auto",
        f"method.{side}.step says how coarse: leave one of them out",
    )
    few = Condition(
        lambda job: _quantised(job, side),
        f"16 and 32 bits are sent as they are: leave it out, or take method.{side}.bits of 1 to 8",
    )
    own = CHOOSES_BITS if side == "uplink" else ("sflam",)
    bits = _not_chosen("the bits", own)
    return {
        f"method.{side}.codec": (first,),
        f"method.{side}.reuse": (first,),
        f"method.{side}.step": (first, fitted),
        f"method.{side}.rate_bits": (first, fitted, aimed),
        f"method.{side}.bits": (first, bits, plain),
        **{
            f"method.{side}.{name}": (first, plain, few)
            for name in ("levels", "per", "rounding", "rotate")
        },
        f"method.{side}.entropy": (first, plain),
    }


def _of_kind(section: str, field: str, *values: str) -> tuple[Condition, ...]:
    """Read where `field` of the section is one of some values."""
    path = [*section.split("."), field]

    def holds(job: Job) -> bool:
        value: Any = job
        for name in path:
            value = getattr(value, name)
        return value in values

    return _where(holds, f"{section}.{field} {' or '.join(values)}")


def _world(holds: Callable[[Any], bool], needed: str) -> tuple[Condition, ...]:
    return _where(lambda job: holds(job.world), needed)


def _placed(world: Any) -> bool:
    """Whether devices are placed around the server, and not by a file or on a road."""
    return world.fleet.path is None and world.mobility.kind in ("static", "redraw")


_LOG_DISTANCE = _of_kind("world", "path_loss", "log-distance")
_URBAN = _of_kind("world", "path_loss", "umi", "uma")
_SHADOWED = _world(
    lambda world: bool(world.shadowing_db) or (
        world.shadowing_db is None and world.path_loss != "log-distance"
    ),
    "world.shadowing_db above 0, or path_loss umi or uma",
)  # fmt: skip
_COMPUTED = Condition(
    lambda job: job.world is None or job.world.rates_path is None,
    "world.rates_path gives the rates: leave one of them out",
)
_MOVING = _of_kind("world.mobility", "kind", "redraw", "highway")
_ROAD = _of_kind("world.mobility", "kind", "highway")
_TRACE = _of_kind("world.mobility", "kind", "trace")
_PLACED = _world(_placed, "a fleet.preset, and mobility.kind static or redraw")
_DRAWN = _of_kind("generated.generator", "source", "demo", "diffusion", "diffusers")
_PIPELINE = _of_kind("generated.generator", "source", "diffusers")
_GENERATES = Condition(
    lambda job: job.generated_in_use is not None,
    "the method trains on no generated data: leave it out, or take a method that averages, "
    "without method.generated false",
    said_only=True,
)
_COLUMNS = _of_kind("data", "source", "hub", "parquet", "table")
_TABLE = _of_kind("data", "source", "table")
_LORA = Condition(
    lambda job: job.method.train == "lora",
    "method.train is full, and every weight is trained: leave it out, or take train lora",
    said_only=True,
)
_AVERAGES = Condition(
    lambda job: job.method.aggregate != "none" and not job.method.pooled,
    "the method averages nothing: leave it out, or take a method that averages adapters",
    said_only=True,
)
_UPLOADS = Condition(
    lambda job: _adapters_travel(job) or job.method.server_adapter == "averaged",
    "no device has an adapter of its own to send: leave it out, or take another method",
    said_only=True,
)

CONDITIONS: dict[str, tuple[Condition, ...]] = {
    "model.cut": (
        Condition(
            lambda job: job.method.split or job.model.lora.side != "both",
            _SPLIT.otherwise,
            said_only=True,
        ),
        Condition(
            lambda job: job.method.cut is None,
            "the method has a cut of its own: set method.cut",
            said_only=True,
        ),
        Condition(
            # auto's calibration has the job's own cut among those it measures.
            lambda job: not _chosen(job, ("asfl", "asfv")),
            "the method's allocation.solver chooses the cut: set method.allocation.cuts",
            said_only=True,
        ),
    ),
    "model.tail": (_SPLIT_HERE,),
    **dict.fromkeys(
        [f"model.lora.{name}" for name in ("rank", "alpha", "dropout", "targets", "side")],
        (_LORA,),
    ),
    "data.input_column": _COLUMNS,
    "data.label_column": _COLUMNS,
    "data.delimiter": _TABLE,
    "data.encoding": _TABLE,
    "data.quotes": _TABLE,
    "data.partition.alpha": _of_kind("data.partition", "kind", "dirichlet"),
    "data.partition.labels_per_device": _of_kind("data.partition", "kind", "labels"),
    "data.partition.exponent": _of_kind("data.partition", "kind", "powerlaw"),
    "data.partition.samples_per_device": _of_kind("data.partition", "kind", "drawn"),
    "data.partition.min_samples": _of_kind(
        "data.partition", "kind", "iid", "dirichlet", "labels", "powerlaw"
    ),
    "method.cut": (_SPLIT, _not_chosen("the cut", ("asfl", "asfv", "auto"))),
    "method.device": (_SPLIT,),
    "method.order": (_RADIO,),
    "method.server_adapter": (_SPLIT,),
    "method.adapter_bits": (
        Condition(
            _adapters_travel,
            "no adapter travels: leave it out, or take a method whose devices train and average",
        ),
    ),
    "method.tokens.keep": (_SPLIT, _not_chosen("the tokens", CHOOSES_TOKENS)),
    **dict.fromkeys(
        ["method.tokens.rest", "method.tokens.score"],
        (
            _SPLIT,
            Condition(_ranked, "all tokens cross: leave it out, or set method.tokens.keep"),
        ),
    ),
    **_quantizer("uplink", _SPLIT),
    **_quantizer("downlink", _RETURNS_OR_TAIL),
    "method.tail_downlink": (_TAIL,),
    "method.tail_uplink": (_TAIL,),
    "method.allocation.solver": (_RADIO,),
    "method.allocation.cuts": _of("asfl", "asfv", "auto"),
    "method.allocation.rates_bps": _of("asfl"),
    "method.allocation.tokens_min": _of("st-sflora", "exact"),
    "method.allocation.tokens": _of("auto"),
    "method.allocation.bits": _of("sflam", "auto"),
    "method.allocation.latency_weight": _of("sflam"),
    "method.allocation.error_budget": _of("sflam"),
    **dict.fromkeys(
        [
            f"method.allocation.{name}"
            for name in ("quality_min", "time_weight", "energy_weight", "bytes_weight")
        ],
        _of("auto"),
    ),
    "method.allocation.emd_max": _of("genfv"),
    "training.momentum": _of_kind("training", "optimizer", "sgd"),
    "training.evaluate_absent": (
        Condition(
            lambda job: job.method.aggregate == "none" and not job.method.pooled,
            "the method has one adapter for all: leave it out, or take method.aggregate none",
            said_only=True,
        ),
    ),
    "training.clip_update_norm": (_AVERAGES, _UPLOADS),
    **dict.fromkeys(
        [
            f"training.{name}"
            for name in (
                "server_optimizer", "server_lr", "server_momentum", "server_beta2",
                "server_epsilon",
            )
        ],
        (_AVERAGES,),
    ),
    "world.exponent": _LOG_DISTANCE,
    "world.reference_m": _LOG_DISTANCE,
    "world.reference_loss_db": _LOG_DISTANCE,
    "world.line_of_sight": _URBAN,
    "world.server_height_m": _URBAN,
    "world.device_height_m": _URBAN,
    "world.shadowing_rounds": _SHADOWED,
    "world.rician_k_db": _of_kind("world", "fading", "rician"),
    "world.reciprocal": _world(lambda world: world.fading != "none", "world.fading"),
    "world.max_bps_per_hz": (_COMPUTED,),
    "world.server_power_w": (_COMPUTED,),
    "world.serving": (_SPLIT_HERE,),
    "world.fleet.preset": _world(lambda world: world.fleet.path is None, "no world.fleet.path"),
    "world.fleet.placement": _PLACED,
    "world.fleet.min_distance_m": _PLACED,
    "world.fleet.max_distance_m": _PLACED,
    **dict.fromkeys(
        [f"world.mobility.speed_{name}_mps" for name in ("mean", "std", "min", "max")], _MOVING
    ),
    **dict.fromkeys(
        [f"world.mobility.{name}" for name in ("lanes", "lane_width_m", "road_offset_m", "road_m")],
        _ROAD,
    ),
    "world.mobility.path": _TRACE,
    **dict.fromkeys(
        [f"world.mobility.{name}" for name in ("start_s", "server_x_m", "server_y_m")], _TRACE
    ),
    "generated.amount": (_GENERATES,),
    "generated.mix": (_GENERATES,),
    "generated.weight": (_GENERATES,),
    "generated.seconds_per_image": (
        _GENERATES,
        Condition(
            lambda job: job.world is not None,
            "only a world has times: leave it out, or add a world section",
            said_only=True,
        ),
    ),
    "generated.generator.prompts": _PIPELINE,
    "generated.generator.template": _PIPELINE,
    "generated.generator.steps": _DRAWN,
    "generated.generator.guidance": _DRAWN,
    "generated.generator.batch": _DRAWN,
}  # fmt: skip
"""When each setting is read that only some jobs read; all of its conditions must hold."""

MODALITIES = {
    "model.image_size": "image",
    "model.aspect": "image",
    "model.max_tokens": "text",
    "data.kind": "text",
    "data.completion_column": "text",
    "data.separator": "text",
    "training.loss_on": "text",
}
"""Settings of models that read images, or texts."""
