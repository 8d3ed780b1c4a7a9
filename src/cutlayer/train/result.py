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

    counts: images by class [C]. weight: k2, the weight of the model trained on them in the average.
    seconds: that the server took to draw them and train on them; image_s: to draw one image. loss:
    the mean over their batches, None if there was no time for any image.
    """

    counts: tuple[int, ...]
    weight: float
    seconds: float
    image_s: float
    loss: float | None


@dataclass(frozen=True)
class Trained:
    """The result of training with one device.

    weight: in the average. upload: the adapter that the device trained and sent up. after_cut: the
    adapter that the server trained for the device.
    """

    weight: int
    upload: Adapter
    after_cut: Adapter


@dataclass
class RoundResult:
    """What one round did: losses by device and step, traffic, and time.

    decisions: of the devices that took part, in the order they take turns. batches: the size of
    each batch that a device was to train on; computed: how many samples of each batch were sent,
    if the device only named the others. late: devices whose training came too late for the average;
    lost: devices that stopped answering, or whose messages were refused. clipped: for each update
    that the server scaled down, how many times larger than its bound it was; clipped_tokens: how
    many tokens of a device were scaled down. overhead_bytes: bytes of the network beyond the
    frames, up and down; None without a network. generated: None without generated data. watch:
    wall-clock seconds by stage. cpu_seconds: processor time of the whole round.
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
        """The round as it happened so far; only steps that gave a loss count."""
        done = {device: len(self.losses.get(device, ())) for device in self.batches}
        made = {device: sizes[: done[device]] for device, sizes in self.batches.items()}
        computed = {device: tuple(sizes) for device, sizes in self.computed.items()}
        return RoundShape(self.round, self.decisions, made, self.traffic, computed)

    @property
    def loss(self) -> float:
        """Mean training loss over all batches of the round."""
        values = [value for losses in self.losses.values() for value in losses]
        return sum(values) / len(values) if values else float("nan")
