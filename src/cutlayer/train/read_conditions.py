"""Conditions under which a job reads a setting, and what is said if it does not.

Used by the table of settings_read.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cutlayer.job import Job
from cutlayer.model.spec import ModelSpec
from cutlayer.settings.precision import Precision
from cutlayer.wire.codecs.seam import TOKEN_CLASSES

CHOOSES_CUTS = ("asfl", "asfv", "auto")
CHOOSES_TOKENS = ("st-sflora", "exact", "auto")
CHOOSES_BITS = ("sflam", "auto")


@dataclass(frozen=True)
class Condition:
    """When a setting is read. otherwise: why it is not, as the end of a sentence, with the remedy.

    said_only: the setting is reported and not refused, since another method, or the same job in a
    world, reads it.
    """

    holds: Callable[[Job], bool]
    otherwise: str
    said_only: bool = False


def _solver(job: Job) -> str:
    """The solver that allocates in this job; none without a world or with all data in one place."""
    return "equal" if job.method.pooled else job.method.allocation.solver


def _is_own(job: Job) -> bool:
    """Whether the allocator is a user's own, which may read and choose anything."""
    return ":" in _solver(job)


def chosen(job: Job, solvers: tuple[str, ...]) -> bool:
    """Whether one of these solvers allocates in this job."""
    return _solver(job) in solvers


def gradients_return(job: Job) -> bool:
    """Whether a device trains anything before a cut, so that gradients come back to it."""
    if not job.method.split or job.method.device == "frozen":
        return False
    if job.method.train == "full":
        return True
    moves = chosen(job, CHOOSES_CUTS) or _is_own(job)
    return job.model.lora.side != "server" and (moves or job.cut > 0)


def adapters_travel(job: Job) -> bool:
    """Whether devices and server send each other adapters."""
    trains = not job.method.split or job.has_tail or gradients_return(job)
    return job.method.aggregate != "none" and not job.method.pooled and trains


def _quantised(job: Job, side: str) -> bool:
    bits: int = getattr(job.method, side).bits
    return bits <= 8 or chosen(job, CHOOSES_BITS) or _is_own(job)


SPLIT = Condition(
    lambda job: job.method.split,
    "the method does not split the model, so nothing crosses a cut: leave it out, or take a method "
    "that splits",
)
SPLIT_HERE = Condition(SPLIT.holds, SPLIT.otherwise, said_only=True)
RETURNS_OR_TAIL = Condition(
    lambda job: gradients_return(job) or (job.has_tail and job.method.tail_downlink is None),
    "no gradient comes back to a device that trains nothing before the cut: leave it out, or take "
    "method.device trained, a cut of 1 or more and lora.side both",
)
TAIL = Condition(
    lambda job: job.has_tail,
    "the server runs the last blocks: leave it out, or set model.tail",
)
RADIO = Condition(
    lambda job: not job.method.pooled,
    "the method has all data in one place and allocates nothing: leave it out",
)


def of_solvers(*solvers: str) -> tuple[Condition, ...]:
    """Conditions for a setting that only these allocators and a user's own read."""
    names = " or ".join(solvers)
    read = Condition(
        lambda job: chosen(job, solvers) or _is_own(job),
        f"only method.allocation.solver {names} reads it: leave it out, or take that solver",
    )
    return (RADIO, read)


def where(holds: Callable[[Job], bool], needed: str) -> tuple[Condition, ...]:
    """A condition that other settings decide. needed: which they must be, for the sentence."""
    return (Condition(holds, f"it needs {needed}: leave it out, or set that"),)


def uplink_is(codec: str) -> tuple[Condition, ...]:
    """The condition that activations go up through this codec."""
    return where(lambda job: job.method.uplink.codec == codec, f"method.uplink.codec {codec}")


def not_chosen(what: str, solvers: tuple[str, ...]) -> Condition:
    """The condition that none of these allocators, which choose it themselves, allocates."""
    return Condition(
        lambda job: not chosen(job, solvers),
        f"the method's allocation.solver chooses {what} of each device: leave it out, or take "
        "another solver",
    )


def ranked(job: Job) -> bool:
    """Whether devices may leave tokens out, so that they rank them."""
    allocated = chosen(job, CHOOSES_TOKENS) or _is_own(job)
    return allocated or job.method.tokens.keep is not None


def patches_a_side(job: Job, spec: ModelSpec, cut: int) -> int:
    """Of an image's grid whose patches the uplink's codec transforms together; 0 for none."""
    uplink = job.method.uplink
    together = uplink.codec == "klt" and uplink.spatial and not ranked(job)
    return spec.patches_a_side_at(cut) if together else 0


def token_classes(job: Job) -> int:
    """The classes of tokens that the uplink's codec knows by their labels; 0 for none."""
    uplink = job.method.uplink
    known = job.method.split and uplink.codec == "klt" and uplink.known_tokens
    return TOKEN_CLASSES if known else 0


def of_quantizer(side: str, *first: Condition) -> dict[str, tuple[Condition, ...]]:
    """The settings of one direction through the cut, and when each is read."""

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
    of_devices = Condition(
        lambda job: side != "downlink",
        "the server fits it to what crosses this way in the first round: leave it out, or set "
        "method.uplink.fit",
    )
    weighted = Condition(
        lambda job: side != "downlink",
        "the server does not hold the blocks that gradients at the cut train: leave it out, or set "
        "method.uplink.weighting, or with model.tail that of method.tail_downlink",
    )
    between_patches = Condition(
        lambda job: side == "uplink",
        "only what comes up through the cut is transformed between patches: leave it out, or set "
        "method.uplink.spatial",
    )
    all_patches = Condition(
        lambda job: not ranked(job),
        "devices leave patches out: leave it out, or have all tokens sent",
    )
    of_labels = Condition(
        lambda job: side == "uplink",
        "only what comes up through the cut has labels beside it: leave it out, or set "
        "method.uplink.known_tokens",
    )
    labels_go_up = Condition(
        lambda job: not job.has_tail,
        "model.tail keeps labels on the devices: leave one of them out",
    )
    of_own = Condition(
        lambda job: job.method.uplink.fit == "calibration",
        "it needs texts of the server's own, for means of devices' tokens would tell every device "
        "which tokens the others' texts hold: leave it out, or set method.uplink.fit to "
        "calibration",
    )
    evenly = Condition(
        lambda job: not job.method.uplink.weighting,
        "method.uplink.weighting weighs tokens by position: leave one of them out",
    )
    aimed = Condition(
        lambda job: getattr(job.method, side).step == "auto",
        f"method.{side}.step says how coarse: leave one of them out",
    )
    few = Condition(
        lambda job: _quantised(job, side),
        f"16 and 32 bits are sent unquantised: leave it out, or take method.{side}.bits of 1 to 8",
    )
    rounded: tuple[Condition, ...] = (plain, few)
    if side == "tail_uplink":  # klt reads it there (see Way.rounds_at_random)
        rounded = (Condition(lambda job: codec(job) == "klt" or few.holds(job), few.otherwise),)
    own = CHOOSES_BITS if side == "uplink" else ("sflam",)
    bits = not_chosen("the bits", own)
    rate = not_chosen("the rate", ("auto",) if side == "uplink" else ())
    return {
        f"method.{side}.codec": first,
        f"method.{side}.reuse": first,
        f"method.{side}.change": first,
        f"method.{side}.fit": (*first, fitted, of_devices),
        f"method.{side}.weighting": (*first, fitted, weighted),
        f"method.{side}.spatial": (*first, fitted, between_patches, all_patches),
        f"method.{side}.known_tokens": (
            *first,
            fitted,
            of_labels,
            labels_go_up,
            of_own,
            evenly,
        ),
        f"method.{side}.variants": (
            *first,
            *where(
                lambda job: bool(job.training.image_augmentation), "training.image_augmentation"
            ),
        ),
        f"method.{side}.step": (*first, fitted, rate),
        f"method.{side}.rate_bits": (*first, fitted, aimed, rate),
        f"method.{side}.bits": (*first, bits, plain),
        **{f"method.{side}.{name}": (*first, plain, few) for name in ("levels", "per", "rotate")},
        f"method.{side}.rounding": (*first, *rounded),
        f"method.{side}.entropy": (*first, plain),
    }


def of_kind(section: str, field: str, *values: str) -> tuple[Condition, ...]:
    """The condition that `field` of the section is one of `values`."""
    path = [*section.split("."), field]

    def holds(job: Job) -> bool:
        value: Any = job
        for name in path:
            value = getattr(value, name)
        return value in values

    return where(holds, f"{section}.{field} {' or '.join(values)}")


def of_world(holds: Callable[[Any], bool], needed: str) -> tuple[Condition, ...]:
    """The condition that the job has a world for which `holds` is true."""
    return where(lambda job: holds(job.world), needed)


def computes_in(precision: Precision) -> tuple[Condition, ...]:
    """The condition that devices may compute in this precision."""
    return (
        Condition(
            lambda job: precision in job.method.allocation.precisions,
            f"the method's devices compute in no {precision}: leave it out, or add {precision} to "
            "method.allocation.precisions",
            said_only=True,
        ),
    )


def placed(world: Any) -> bool:
    """Whether devices are placed around the server, not by a file or on a road."""
    return world.fleet.path is None and world.mobility.kind in ("static", "redraw")
