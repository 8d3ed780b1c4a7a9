"""The shape of a round: devices and their decisions, steps, samples and bytes.

It says what was planned or what really happened. Planner, virtual clock, replay and record share
it.
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
    send. features, feature_gradients: only of a model whose last blocks are on the device.
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
"""How many kinds of traffic there are, so the most byte counts a record has for one device."""


@dataclass(frozen=True)
class RoundShape:
    """One round, as planned or as it happened.

    round: counted from 0.
    decisions: by device, in the order in which devices take turns. batches: by device, the number
    of samples in each of its steps; of a lost device, the steps before its loss. traffic: by
    device, in bytes of whole frames. computed: by device, the number of samples in each step that
    the device ran and sent; the server already held the others. A device that is missing there
    ran all of its samples.
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
        """The devices that make at least one step, in the order of the cohort."""
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
        # Many devices have the same steps: one column is made for all of them.
        columns: dict[tuple[int, ...], int] = {}
        index = [columns.setdefault(tuple(sizes[one]), len(columns)) for one in devices]
        table = np.zeros((most, len(columns)), dtype=np.int64)
        for steps, column in columns.items():
            table[: len(steps), column] = steps
        return np.ascontiguousarray(table[:, index])


def batch_sizes(samples: int, training: Training) -> tuple[int, ...]:
    """The batch size of each step of a round, for a device with `samples` samples an epoch.

    The last batch of an epoch holds the samples that are left.
    """
    full, rest = divmod(samples, training.batch_size)
    epoch = (training.batch_size,) * full + ((rest,) if rest else ())
    return epoch * training.local_epochs


def batch_counts(samples: npt.ArrayLike, training: Training) -> dict[int, Ints]:
    """How many batches of each size m devices have in a round: by batch size, counts [m].

    samples: of each device in an epoch [m]. The same as `batch_sizes`, for many devices at once.
    """
    held = np.asarray(samples).astype(np.int64)
    full, rest = np.divmod(held, training.batch_size)
    counts = {int(size): (rest == size).astype(np.int64) for size in np.unique(rest[rest > 0])}
    counts[training.batch_size] = full
    return {size: training.local_epochs * count for size, count in counts.items()}
