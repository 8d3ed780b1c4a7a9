"""The shape of a round: who takes part with what, in which steps, on how many samples and bytes.

Planner, virtual clock, replay and record share it: it is what was planned or what really happened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.decision import Decision
from cutlayer.settings.training import Training

Ints = npt.NDArray[np.int64]


@dataclass
class Traffic:
    """Bytes of the frames of one device in one round, by what they carry.

    coding_down: what the device needs to encode: a fitted basis, and which samples it need not
    send. features, feature_gradients: of a model whose last blocks are on the device.
    """

    activations: int = 0
    gradients: int = 0
    adapter_down: int = 0
    adapter_up: int = 0
    coding_down: int = 0
    features: int = 0
    feature_gradients: int = 0

    @property
    def up(self) -> int:
        """Bytes from the device to the server."""
        return self.activations + self.adapter_up + self.feature_gradients

    @property
    def down(self) -> int:
        """Bytes from the server to the device."""
        return self.gradients + self.adapter_down + self.coding_down + self.features


TRAFFIC_KINDS = len(fields(Traffic))
"""Numbers of bytes that a record has of each device at most."""


@dataclass(frozen=True)
class RoundShape:
    """One round, as planned or as it happened.

    decisions: of the cohort, in the order in which devices take turns. batches: by device, the
    samples of each of its steps; of a device that was lost, of the steps before that. traffic: by
    device, in bytes of whole frames. computed: by device, the samples of each step that it ran and
    sent, where it only named the others, which the server held; all of them where it is missing.
    """

    round: int
    decisions: Mapping[int, Decision]
    batches: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    traffic: Mapping[int, Traffic] = field(default_factory=dict)
    computed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def cohort(self) -> list[int]:
        """The devices that take part."""
        return list(self.decisions)

    @property
    def trained(self) -> list[int]:
        """The devices that make a step at least, in the order of the cohort."""
        return [device for device in self.decisions if self.batches.get(device)]

    @property
    def samples_trained(self) -> dict[int, int]:
        """Samples of each device, all epochs of the round together."""
        return {device: sum(sizes) for device, sizes in self.batches.items()}

    def batch_table(self) -> Ints:
        """[S, M] samples of every step of `trained`; 0 after a device's last step."""
        return self._table(self.batches)

    def computed_table(self) -> Ints:
        """[S, M] samples of every step of `trained` that the device ran and sent."""
        return self._table({**self.batches, **self.computed})

    def _table(self, sizes: Mapping[int, tuple[int, ...]]) -> Ints:
        devices = self.trained
        most = max((len(self.batches[device]) for device in devices), default=0)
        table = np.zeros((most, len(devices)), dtype=np.int64)
        for place, device in enumerate(devices):
            table[: len(sizes[device]), place] = sizes[device]
        return table


def batch_sizes(samples: int, training: Training) -> tuple[int, ...]:
    """Samples of each step of a round, of a device with `samples` in an epoch.

    The last batch of an epoch holds what is left.
    """
    full, rest = divmod(samples, training.batch_size)
    epoch = (training.batch_size,) * full + ((rest,) if rest else ())
    return epoch * training.local_epochs


def batch_counts(samples: npt.ArrayLike, training: Training) -> dict[int, Ints]:
    """How many batches of each size a round has [m], of devices with `samples` [m] in an epoch.

    The same as `batch_sizes`, counted for many devices at once.
    """
    held = np.asarray(samples).astype(np.int64)
    full, rest = np.divmod(held, training.batch_size)
    counts = {int(size): (rest == size).astype(np.int64) for size in np.unique(rest[rest > 0])}
    counts[training.batch_size] = full
    return {size: training.local_epochs * count for size, count in counts.items()}
