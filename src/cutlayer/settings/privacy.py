"""The privacy section of a job: the noise and bounds that hide devices and their samples."""

from typing import Annotated, Literal

from pydantic import Field

from cutlayer.settings.section import Positive, Section


class Privacy(Section):
    """The noise and bounds that hide devices and their samples."""

    unit: Literal["none", "device", "sample"] = "none"
    """What the exported adapter is to hide by differential privacy: whether a device took part at
    all (device), or whether one sample was among a device's (sample). It says nothing of what the
    server sees.
    """

    clip_norm: Positive = 1.0
    """Largest L2 norm of what the unit contributes at once: a device's change in a round, or a
    sample's gradient in a step, on each side of the cut for itself. A larger one is scaled down.
    """

    noise_multiplier: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Standard deviation of the Gaussian noise on the sum of these contributions, in units of
    clip_norm. 0: contributions are bounded and nothing is hidden.
    """

    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """Delta of the epsilon that is told: well below one over the number of units."""

    noise_from: Literal["secret", "seed"] = "secret"
    """Where noise comes from: the operating system, anew at each start (secret), or the job's seed,
    with which anybody can take it out again (seed: for experiments that are to be repeated).
    """

    secure_sum: bool = False
    """Whether the server learns only the sum of the devices' adapters, and no single one (Bonawitz
    et al. 2017). It hides neither activations nor labels.
    """

    secure_quorum: Annotated[float, Field(gt=0.5, le=1)] = 0.65
    """Share of a round's devices that must be left at the end of a secure sum; with fewer the round
    is lost. That many together can take off the others' masks.
    """

    activation_noise: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Standard deviation of Gaussian noise on each activation that a device sends, in units of the
    sample's root mean square; a sample has the same noise at each visit. It gives no epsilon.
    """

    label_noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of its labels that a device replaces by one drawn from all classes, before it trains;
    a sample keeps its label at each visit.
    """
