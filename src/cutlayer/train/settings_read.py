"""Which settings a job reads: a table of the settings that only some jobs read, and when.

A setting that is not in the table is read by every job. A setting that is not read because of
other settings of the method or of its own section is refused. A setting that only this method does
not need (`fedlora` has no cut) is reported, since other methods of the same job may read it.
"""

from cutlayer.train.read_conditions import (
    CHOOSES_TOKENS,
    RADIO,
    RETURNS_OR_TAIL,
    SPLIT,
    SPLIT_HERE,
    TAIL,
    Condition,
    adapters_travel,
    chosen,
    computes_in,
    not_chosen,
    of_kind,
    of_quantizer,
    of_solvers,
    of_world,
    placed,
    ranked,
    uplink_is,
    where,
)

_LOG_DISTANCE = of_kind("world", "path_loss", "log-distance")
_URBAN = of_kind("world", "path_loss", "umi", "uma")
_SHADOWED = of_world(
    lambda world: bool(world.shadowing_db) or (
        world.shadowing_db is None and world.urban is not None
    ),
    "world.shadowing_db above 0, or path_loss umi or uma",
)  # fmt: skip
_COMPUTED = Condition(
    lambda job: job.world is None or job.world.rates_path is None,
    "world.rates_path gives the rates: leave one of them out",
)
_NO_GAINS = Condition(
    lambda job: job.world is None or job.world.gains_path is None,
    "world.gains_path gives the gains of all links: leave one of them out",
)
_MOVING = of_kind("world.mobility", "kind", "redraw", "highway")
_ROAD = of_kind("world.mobility", "kind", "highway")
_TRACE = of_kind("world.mobility", "kind", "trace")
_PLACED = of_world(placed, "a fleet.preset, and mobility.kind static or redraw")
_DRAWN = of_kind("generated.generator", "source", "demo", "diffusion", "diffusers")
_PIPELINE = of_kind("generated.generator", "source", "diffusers")
_GENERATES = Condition(
    lambda job: job.generated_in_use is not None,
    "the method trains on no generated data: leave it out, or take a method that averages, "
    "without method.generated false",
    said_only=True,
)
_COLUMNS = of_kind("data", "source", "hub", "parquet", "table")
_TABLE = of_kind("data", "source", "table")
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
    lambda job: adapters_travel(job) or job.method.server_adapter == "averaged",
    "no device has an adapter of its own to send: leave it out, or take another method",
    said_only=True,
)
_SIDE_BY_SIDE = Condition(
    lambda job: job.method.order == "parallel",
    "the method's devices train one after another, so none can be compared with others: leave it "
    "out, or take method.order parallel",
    said_only=True,
)
_HIDES = Condition(
    lambda job: job.privacy.unit != "none",
    "it needs privacy.unit device or sample: leave it out, or set that",
)

CONDITIONS: dict[str, tuple[Condition, ...]] = {
    "model.cut": (
        Condition(
            lambda job: job.method.split or job.model.lora.side != "both",
            SPLIT.otherwise,
            said_only=True,
        ),
        Condition(
            lambda job: job.method.cut is None,
            "the method has a cut of its own: set method.cut",
            said_only=True,
        ),
        Condition(
            # The calibration for `auto` measures the job's own cut too.
            lambda job: not chosen(job, ("asfl", "asfv")),
            "the method's allocation.solver chooses the cut: set method.allocation.cuts",
            said_only=True,
        ),
    ),
    "model.tail": (SPLIT_HERE,),
    **dict.fromkeys(
        [f"model.lora.{name}" for name in ("rank", "alpha", "dropout", "targets", "side")],
        (_LORA,),
    ),
    "data.input_column": _COLUMNS,
    "data.label_column": _COLUMNS,
    "data.delimiter": _TABLE,
    "data.encoding": _TABLE,
    "data.quotes": _TABLE,
    "data.partition.alpha": of_kind("data.partition", "kind", "dirichlet"),
    "data.partition.labels_per_device": of_kind("data.partition", "kind", "labels"),
    "data.partition.exponent": of_kind("data.partition", "kind", "powerlaw"),
    "data.partition.samples_per_device": of_kind("data.partition", "kind", "drawn"),
    "data.partition.min_samples": of_kind(
        "data.partition", "kind", "iid", "dirichlet", "labels", "powerlaw"
    ),
    "devices.drop_out": (
        Condition(
            lambda job: not job.method.pooled,
            "the method trains in one place: leave it out, or take a method with devices",
            said_only=True,
        ),
    ),
    "method.cut": (SPLIT, not_chosen("the cut", ("asfl", "asfv", "auto"))),
    "method.device": (SPLIT,),
    "method.order": (RADIO,),
    "method.server_adapter": (SPLIT,),
    "method.adapter_bits": (
        Condition(
            adapters_travel,
            "no adapter travels: leave it out, or take a method whose devices train and average",
        ),
    ),
    "method.tokens.keep": (SPLIT, not_chosen("the tokens", CHOOSES_TOKENS)),
    **dict.fromkeys(
        ["method.tokens.rest", "method.tokens.score"],
        (
            SPLIT,
            Condition(ranked, "all tokens cross: leave it out, or set method.tokens.keep"),
        ),
    ),
    **of_quantizer("uplink", SPLIT),
    **of_quantizer("downlink", RETURNS_OR_TAIL),
    **of_quantizer("tail_downlink", SPLIT, TAIL),
    **of_quantizer("tail_uplink", SPLIT, TAIL),
    "method.tail_tokens": (SPLIT, TAIL),
    "method.allocation.solver": (RADIO,),
    "method.allocation.cuts": of_solvers("asfl", "asfv", "auto"),
    "method.allocation.rates_bps": of_solvers("asfl"),
    "method.allocation.tokens_min": of_solvers("st-sflora", "exact"),
    "method.allocation.tokens": of_solvers("auto"),
    "method.allocation.bits": (*of_solvers("sflam", "auto"), *uplink_is("quantize")),
    "method.allocation.rates": (*of_solvers("auto"), *uplink_is("klt")),
    "method.allocation.precisions": of_solvers("auto"),
    "method.allocation.latency_weight": of_solvers("sflam"),
    "method.allocation.error_budget": of_solvers("sflam"),
    **dict.fromkeys(
        [
            f"method.allocation.{name}"
            for name in (
                "quality_min", "leakage_max", "time_weight", "energy_weight", "bytes_weight",
            )
        ],
        of_solvers("auto"),
    ),
    "method.allocation.emd_max": of_solvers("genfv"),
    "training.momentum": of_kind("training", "optimizer", "sgd"),
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
    **dict.fromkeys(
        ["trust.average", "trust.clip_to_median"], (_AVERAGES, _SIDE_BY_SIDE, _UPLOADS)
    ),
    "trust.hostile": (
        _AVERAGES,
        _UPLOADS,
        Condition(
            lambda job: job.trust.average in ("trimmed-mean", "krum"),
            "it needs trust.average trimmed-mean or krum: leave it out, or set that",
        ),
    ),
    "trust.clip_activations": (SPLIT_HERE,),
    "privacy.clip_norm": (_HIDES,),
    "privacy.noise_multiplier": (_HIDES,),
    "privacy.delta": (
        _HIDES,
        *where(lambda job: job.privacy.noise_multiplier > 0, "privacy.noise_multiplier above 0"),
    ),
    "privacy.noise_from": (
        Condition(
            lambda job: job.privacy.unit != "none"
            or bool(job.privacy.activation_noise or job.privacy.label_noise),
            "it needs noise: leave it out, or set privacy.unit, activation_noise or label_noise",
        ),
    ),
    "privacy.activation_noise": (SPLIT_HERE,),
    "privacy.secure_sum": (
        Condition(
            adapters_travel,
            "no device sends an adapter that is averaged: leave it out, or take another method",
            said_only=True,
        ),
    ),
    "privacy.secure_quorum": where(lambda job: job.privacy.secure_sum, "privacy.secure_sum"),
    "world.carrier_hz": (_NO_GAINS,),
    "world.server_gain_dbi": (_NO_GAINS,),
    "world.device_gain_dbi": (_NO_GAINS,),
    "world.path_loss": (_NO_GAINS,),
    "world.exponent": (_NO_GAINS, *_LOG_DISTANCE),
    "world.reference_m": (_NO_GAINS, *_LOG_DISTANCE),
    "world.reference_loss_db": (_NO_GAINS, *_LOG_DISTANCE),
    "world.line_of_sight": (_NO_GAINS, *_URBAN),
    "world.server_height_m": (_NO_GAINS, *_URBAN),
    "world.device_height_m": (_NO_GAINS, *_URBAN),
    "world.shadowing_db": (_NO_GAINS,),
    "world.shadowing_rounds": (_NO_GAINS, *_SHADOWED),
    "world.fading": (_NO_GAINS,),
    "world.rician_k_db": (_NO_GAINS, *of_kind("world", "fading", "rician")),
    "world.reciprocal": (
        _NO_GAINS, *of_world(lambda world: world.fading != "none", "world.fading"),
    ),
    "world.max_bps_per_hz": (_COMPUTED,),
    "world.server_power_w": (_COMPUTED,),
    "world.serving": (SPLIT_HERE,),
    "world.fleet.preset": of_world(lambda world: world.fleet.path is None, "no world.fleet.path"),
    "world.fleet.placement": _PLACED,
    "world.fleet.min_distance_m": _PLACED,
    "world.fleet.max_distance_m": _PLACED,
    "world.fleet.float16_speed": computes_in("float16"),
    "world.fleet.int8_speed": computes_in("int8"),
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
"""For each setting that only some jobs read: the conditions, all of which must hold."""

MODALITIES = {
    "model.image_size": "image",
    "model.aspect": "image",
    "data.memory_bytes": "image",
    "model.max_tokens": "text",
    "data.kind": "text",
    "data.completion_column": "text",
    "data.separator": "text",
    "training.loss_on": "text",
}
"""Settings of models that read images, or texts."""
