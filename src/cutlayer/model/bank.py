"""The adapter bank: which adapter each sample of a batch in computation goes through."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor

from cutlayer.errors import ModelError
from cutlayer.model.dropout import Masks, masks_of
from cutlayer.model.siblings import Siblings
from cutlayer.model.stack import Run, runs_of


@dataclass(frozen=True)
class Segment:
    """`size` consecutive samples of a batch that go through `adapter`, or a row of a stack.

    seed: of the LoRA dropout of its device; None runs without dropout, as in evaluation. first: the
    number of its first sample in the device's batch, of which it may be a part.
    """

    adapter: Mapping[str, Tensor]
    size: int
    seed: int | None = None
    first: int = 0


@dataclass(frozen=True, eq=False)
class Passing:
    """What the batch in computation goes through.

    route: which adapter each sample goes through; runs: the same as runs of adapters that one
    product takes. masks: of LoRA dropout; None where nothing is dropped. calls: of each layer that
    drops, in this pass so far.
    """

    route: tuple[Segment, ...] = ()
    runs: tuple[Run, ...] = ()
    masks: Masks | None = None
    calls: Counter[str] = field(default_factory=Counter)


class AdapterBank:
    """Holds what the current batch goes through. siblings: of all its layers."""

    def __init__(self) -> None:
        self.now = Passing()
        self.siblings: dict[int, Siblings] = {}

    @property
    def route(self) -> tuple[Segment, ...]:
        """Which adapter each sample of the current batch goes through."""
        return self.now.route

    @contextmanager
    def use(
        self, route: Sequence[Segment], rows: int, masks: Masks | None = None
    ) -> Iterator[None]:
        """Send batches of `rows` samples along `route` within the `with` block.

        masks: of rows that are no samples; None: those of the route's seeds.
        """
        segments = merged(route)
        check_covers(segments, rows)
        runs = runs_of([(s.adapter, s.size) for s in segments])
        if masks is None:
            masks = masks_of([(s.seed, s.size, s.first) for s in segments])
        with self.passing(Passing(segments, runs, masks)):
            yield

    @contextmanager
    def passing(self, now: Passing) -> Iterator[None]:
        """Compute with what another batch, or this one before, went through."""
        before, self.now = self.now, now
        try:
            yield
        finally:
            self.now = before
            for siblings in self.siblings.values():
                siblings.forget()

    def dropped(self, x: Tensor, p: float, layer: str) -> Tensor:
        """Inverted dropout of the input x [B,...,D] of a layer, each device's masks its own."""
        masks = self.now.masks
        if masks is None:
            return x
        if masks.seeds.device != x.device:
            masks = masks.to(x.device)
            self.now = replace(self.now, masks=masks)
        self.now.calls[layer] += 1
        return masks.drop(x, p, layer, self.now.calls[layer])


def check_covers(route: Sequence[Segment], rows: int) -> None:
    """Raise ModelError unless the segments are as long as the batch."""
    total = sum(segment.size for segment in route)
    if total != rows:
        raise ModelError(f"route: its segments hold {total} samples but the batch has {rows}")


def merged(route: Sequence[Segment]) -> tuple[Segment, ...]:
    """`route` without empty segments, and with neighbours on one adapter made one."""
    joined: list[Segment] = []
    for segment in route:
        if segment.size == 0:
            continue
        last = joined[-1] if joined else None
        if last and last.adapter is segment.adapter and last.seed is segment.seed is None:
            joined[-1] = Segment(last.adapter, last.size + segment.size)
        else:
            joined.append(segment)
    return tuple(joined)
