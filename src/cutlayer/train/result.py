"""What one round did, or (in a plan) would do."""

from collections import defaultdict
from dataclasses import dataclass, field

from cutlayer.allocate.decision import Decision
from cutlayer.train.stopwatch import Stopwatch


@dataclass
class Traffic:
    """Bytes of the frames of one device in one round, by what they carry."""

    activations: int = 0
    gradients: int = 0
    adapter_down: int = 0
    adapter_up: int = 0

    @property
    def up(self) -> int:
        """Bytes from the device to the server."""
        return self.activations + self.adapter_up

    @property
    def down(self) -> int:
        """Bytes from the server to the device."""
        return self.gradients + self.adapter_down


@dataclass(frozen=True)
class Generated:
    """What the server did with generated data in one round.

    counts: images by class [C]. weight: k2, of the model trained on them in the average. seconds:
    of the server, beside what it does for devices: drawing at image_s each, and training. loss:
    mean over their batches, None where there was no time for any.
    """

    counts: tuple[int, ...]
    weight: float
    seconds: float
    image_s: float
    loss: float | None


@dataclass
class RoundResult:
    """What one round did: losses by device and step, traffic, and time.

    decisions: of the devices that took part, in the order they take turns. samples: those each
    trained on, all epochs together. late: devices whose training came too late for the average;
    lost: those that failed on the way. overhead_bytes: what a network took beyond the frames, up
    and down; None without one. generated: None without generated data. watch holds
    wall-clock seconds by stage; cpu_seconds is processor time of the whole round.
    """

    round: int
    decisions: dict[int, Decision]
    samples: dict[int, int] = field(default_factory=dict)
    losses: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    traffic: dict[int, Traffic] = field(default_factory=lambda: defaultdict(Traffic))
    late: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)
    cpu_seconds: float = 0.0
    generated: Generated | None = None
    overhead_bytes: list[int] | None = None

    @property
    def cohort(self) -> list[int]:
        """The devices that took part."""
        return list(self.decisions)

    @property
    def loss(self) -> float:
        """Mean training loss over all batches of the round."""
        values = [value for losses in self.losses.values() for value in losses]
        return sum(values) / len(values) if values else float("nan")
