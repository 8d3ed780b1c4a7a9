"""Which programs a light device needs for a round, by its decision."""

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.spec import ModelSpec
from cutlayer.settings.method import Quantizer
from cutlayer.train.coding import FITTING
from cutlayer.wire.program_ports import Coding, ProgramKey


def round_keys(job: Job, spec: ModelSpec, decision: Decision, plain_steps: int) -> list[ProgramKey]:
    """The programs of a round. plain_steps: see `Opening`.

    Only the device knows how many tokens a text has. So if tokens are selected, it also gets a
    program without selection, for texts that are too short for it.
    """
    method, tokens = job.method, decision.tokens
    uplink = decision.uplink(method)
    codings = [_coding(uplink)]
    if uplink.codec == "klt":
        codings = [Coding("basis"), *([_coding(FITTING)] if plain_steps else [])]
    choices = [tokens is not None and tokens < spec.patches]
    if spec.modality == "text" and tokens is not None:
        choices = [True, False]
    return [
        ProgramKey(
            decision.cut,
            coding,
            selects=selects,
            merges=selects and method.tokens.rest == "merge",
        )
        for coding in codings
        for selects in choices
    ]


def probe_key(cut: int, scored: bool) -> ProgramKey:
    """The program that measures activations."""
    return ProgramKey(cut, Coding("floats"), scored=scored)


def _coding(quantizer: Quantizer) -> Coding:
    if quantizer.bits > 8:
        return Coding("floats")
    return Coding(
        "levels",
        quantizer.bits,
        "gaussian" if quantizer.levels == "gaussian" else "uniform",
        quantizer.per,
        quantizer.rotate,
    )
