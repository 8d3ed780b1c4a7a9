"""What is measured of a round, and recorded."""

from dataclasses import dataclass, field

from cutlayer.allocate.decision import Decision
from cutlayer.allocate.round_shape import RoundShape, Traffic, batch_sizes
from cutlayer.settings.training import Training

MOST_MEASURED = 10_000
"""Devices of a fleet, from the first on, whose own figures are recorded and shown."""


@dataclass(frozen=True)
class Row:
    """One round as measured. M devices of the fleet, numbered from 0; C classes."""

    round: int
    """The number of the round, from 0."""

    decisions: dict[int, Decision]
    """With what each device took part, by device, in the order in which devices take turns."""

    samples_trained: dict[int, int]
    """Samples that each device set out to train on, all epochs of the round together (`samples` in
    the file).
    """

    loss: float
    """Mean training loss over all batches of the round; NaN where nobody trained."""

    traffic: dict[int, list[int]]
    """Bytes of encoded frames, headers included, by device: [activations, gradients, adapter down,
    adapter up, basis and samples held down, features down, their gradients up]; records of earlier
    versions lack some of the last three.
    """

    seconds: dict[str, float]
    """Wall-clock seconds of each stage of the round, by its name."""

    cpu_seconds: float
    """Processor seconds of training, on all cores together."""

    device_loss: dict[int, float]
    """Mean training loss of each device over its batches."""

    accuracy: float | None = None
    """Accuracy on the test set of the unsplit model with the exported adapter; where each device
    keeps a model of its own, of all of them together. None, as all figures of a test, in a round
    without one.
    """

    test_loss: float | None = None
    """Mean loss on the test set of the models that accuracy is of."""

    accuracy_through_cut: float | None = None
    """Accuracy on the test set with the tokens and bits of the job, as device and server would
    serve together; in the last round only.
    """

    test_samples: int | None = None
    """Samples in the test set."""

    macro_f1: float | None = None
    """Mean over classes of F1 on the test set; where each device keeps a model of its own, the mean
    of theirs.
    """

    perplexity: float | None = None
    """Exponential of a language model's test loss of a token; None for other models, and where it
    is beyond all bounds.
    """

    perplexity_through_cut: float | None = None
    """The same with the tokens and bits of the job, as device and server would serve together; in
    the last round only.
    """

    class_accuracy: list[float | None] = field(default_factory=list)
    """[C] accuracy on the test samples of each class; None for a class that the test set has none
    of.
    """

    confusion: list[list[int]] = field(default_factory=list)
    """[true class, predicted class, test samples] of every pair that occurs; in the last round
    only.
    """

    label_mix_accuracy: list[float | None] = field(default_factory=list)
    """[M] accuracy on the test set, its classes weighted by the mix of labels of each device; None
    for a device that keeps an adapter of its own and has none yet. Of a fleet of more than
    MOST_MEASURED the first so many.
    """

    held_out_accuracy: list[float | None] = field(default_factory=list)
    """[M] accuracy on each device's own held-out samples, None where it has none; empty where the
    job holds none out.
    """

    held_out_samples: list[int] = field(default_factory=list)
    """[M] how many samples each device holds out; empty where the job holds none out."""

    left_out: dict[int, str] = field(default_factory=dict)
    """Why devices that were drawn for the round did not take part, by device."""

    late: list[int] = field(default_factory=list)
    """Devices whose training came too late for the average."""

    lost: list[int] = field(default_factory=list)
    """Devices that took part and were lost: they stopped answering, or sent what was refused."""

    clipped: dict[int, float] = field(default_factory=dict)
    """How many times larger than its bound the update of a device was, of those that the server
    scaled down (training.clip_update_norm, trust.clip_to_median).
    """

    clipped_tokens: dict[int, int] = field(default_factory=dict)
    """Tokens that the server scaled down (trust.clip_activations), by the device that sent them."""

    epsilon: float | None = None
    """Epsilon, at `delta`, of the adapter after this round: of the differential privacy that it
    gives to each `hidden_unit` of the device that took part most often; None without noise.
    """

    delta: float | None = None
    """Delta of `epsilon`."""

    hidden_unit: str | None = None
    """Whose presence epsilon is about: a device's, or a sample's of a device."""

    virtual_s: float | None = None
    """Seconds of the round in the job's world; None without a world."""

    joules: dict[int, float] = field(default_factory=dict)
    """Joules that each device spent in the job's world; empty without a world."""

    planned_s: float | None = None
    """Seconds that the virtual clock expected of the decisions; None without a world."""

    ste: float | None = None
    """Semantic transmission efficiency of the plan, sum f_m(K_m) over the longest upload (arXiv
    2605.26120), per second. None without a split or a world, where devices take turns, and where
    fewer than all tokens are kept and neither the devices nor a calibration measured their f.
    """

    ste_bound: float | None = None
    """No allocation has a larger `ste`; None where the allocator gives no bound."""

    generated: list[int] | None = None
    """[C] images of each class that the server generated and trained on; this and what follows are
    None where the server generates none.
    """

    generated_weight: float | None = None
    """Weight in the new adapter of what the server trained on generated images."""

    generated_s: float | None = None
    """Seconds of the server for drawing and training on them, in the job's world."""

    generated_image_s: float | None = None
    """Seconds of these for drawing one image."""

    generated_loss: float | None = None
    """Mean training loss on generated images; None where there were none."""

    overhead_bytes: list[int] | None = None
    """[up, down] bytes that a real network took besides the frames: messages, chunk headers,
    credits; None in a simulation.
    """

    steps: dict[int, int] = field(default_factory=dict)
    """Batches that each device did train on: fewer than planned where it was lost."""

    computed: dict[int, list[int]] = field(default_factory=dict)
    """Samples of each step that a device ran and sent, where the server held the others; empty
    where every sample is sent.
    """

    @property
    def cohort(self) -> list[int]:
        """The devices that took part."""
        return list(self.decisions)

    @property
    def up_bytes(self) -> int:
        """Bytes from all devices to the server."""
        return sum(Traffic(*found).up for found in self.traffic.values())

    @property
    def down_bytes(self) -> int:
        """Bytes from the server to all devices."""
        return sum(Traffic(*found).down for found in self.traffic.values())

    @property
    def in_vain(self) -> bool:
        """Whether the round changed nothing, since all devices that trained were late or lost."""
        out = {*self.late, *self.lost}
        return bool(out) and self.generated is None and self.samples_trained.keys() <= out

    def shape(self, training: Training) -> RoundShape:
        """The round as it happened. A record without steps has made all of them.

        training: the run's, which says how samples make batches.
        """
        batches = {}
        for device, samples in self.samples_trained.items():
            planned = batch_sizes(samples // training.local_epochs, training)
            batches[device] = planned[: self.steps.get(device, len(planned))]
        traffic = {device: Traffic(*self.traffic.get(device, ())) for device in batches}
        computed = {d: tuple(sizes) for d, sizes in self.computed.items() if d in batches}
        return RoundShape(self.round, self.decisions, batches, traffic, computed)
