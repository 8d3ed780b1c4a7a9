"""What one round of training did: losses, samples, batches and bytes by device."""

from collections import defaultdict
from dataclasses import dataclass, field

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import RoundShape, Traffic
from cutlayer.model.lora import Adapter
from cutlayer.train.stopwatch import Stopwatch


@dataclass(frozen=True)
class Generated:
    """What the server did with generated data in one round.

    counts: images by class [C]. weight: k2, the share in the average of the model trained on
    them. seconds: of the server, for drawing (image_s an image) and training on them. loss: mean
    over their batches, None where there was no time for any.
    """

    counts: tuple[int, ...]
    weight: float
    seconds: float
    image_s: float
    loss: float | None


@dataclass(frozen=True)
class Trained:
    """What the training of one device came to.

    weight: in the average. upload: the adapter that it trained and sent up. after_cut: the adapter
    that the server trained for it.
    """

    weight: int
    upload: Adapter
    after_cut: Adapter


@dataclass
class RoundResult:
    """What one round did: losses by device and step, traffic, and time.

    decisions: of the devices that took part, in the order they take turns. batches: the size of
    each batch that a device was to train on; computed: how many samples of it were sent, where it
    only named the others. late: devices whose training came too late for the average; lost: those
    that stopped answering, or whose messages were refused. clipped: how many times larger than its
    bound the update of a device was that the server scaled down; clipped_tokens: how many of its
    tokens were. overhead_bytes: what a network took beyond the frames, up and down; None without
    one. generated: None without generated data. watch holds wall-clock seconds by stage;
    cpu_seconds is processor time of the whole round.
    """

    round: int
    decisions: dict[int, Decision]
    batches: dict[int, tuple[int, ...]] = field(default_factory=dict)
    losses: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    computed: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    traffic: dict[int, Traffic] = field(default_factory=lambda: defaultdict(Traffic))
    late: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    clipped: dict[int, float] = field(default_factory=dict)
    clipped_tokens: dict[int, int] = field(default_factory=dict)
    watch: Stopwatch = field(default_factory=Stopwatch)
    cpu_seconds: float = 0.0
    generated: Generated | None = None
    overhead_bytes: list[int] | None = None

    @property
    def cohort(self) -> list[int]:
        """The devices that took part."""
        return list(self.decisions)

    @property
    def shape(self) -> RoundShape:
        """The round as it happened so far: a step is one that gave a loss."""
        done = {device: len(self.losses.get(device, ())) for device in self.batches}
        made = {device: sizes[: done[device]] for device, sizes in self.batches.items()}
        computed = {device: tuple(sizes) for device, sizes in self.computed.items()}
        return RoundShape(self.round, self.decisions, made, self.traffic, computed)

    @property
    def loss(self) -> float:
        """Mean training loss over all batches of the round."""
        values = [value for losses in self.losses.values() for value in losses]
        return sum(values) / len(values) if values else float("nan")
