"""Full training: one module computes every segment of a batch with the segment's own weights.

An adapter then holds every parameter under its Hugging Face name, and the running statistics of
batch normalisation, so that the average of adapters is the average of whole models.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from cutlayer.model.bank import AdapterBank, Segment, merged
from cutlayer.model.lora import Adapter, Batch, Piece, Tensors, fresh_head, one_by_one
from cutlayer.model.positions import position_shape
from cutlayer.model.spec import ModelSpec, Train

Shapes = dict[str, tuple[int, ...]]
STATISTICS = (".running_mean", ".running_var")


class FullWeights:
    """Trains every weight of the part that is loaded.

    shapes: of the whole model's tensors, from `whole_shapes`. holds_head: the part has the head.
    A tensor that a segment's adapter lacks is the loaded one, frozen; it must not lack the head's.
    """

    train: Train = "full"

    def __init__(
        self,
        module: nn.Module,
        spec: ModelSpec,
        shapes: Shapes,
        bank: AdapterBank,
        holds_head: bool,
    ) -> None:
        self.spec = spec
        self.bank = bank
        self._module = module
        self._shapes = shapes
        self._holds_head = holds_head
        self._held = frozenset(_tensors(module))
        self._normalises_batches = any(key.endswith(STATISTICS) for key in self._held)
        self._swapped = _Swapped(module)

    def shapes(self) -> Shapes:
        """The shape of each tensor of an adapter, by key."""
        return dict(self._shapes)

    def fresh(self, seed: int) -> Adapter:
        """A copy of the loaded part's tensors, and a new head if the part has the head."""
        own = {key: tensor.clone() for key, tensor in _tensors(self._module).items()}
        if self._holds_head:
            own |= fresh_head(self.spec, seed)
        return {key: own[key] for key in self._shapes if key in own}

    def trained(self, name: str) -> bool:
        """False for running statistics, which move without a gradient."""
        return not name.endswith(STATISTICS)

    def run(self, route: Sequence[Segment], batch: Batch, piece: Piece) -> Tensors:
        """Run segment after segment, each with its own tensors in place of the module's.

        Neighbouring segments with one adapter run together, unless batch statistics would then mix
        them. Raises ModelError when the route does not cover the batch.
        """
        segments = [s for s in route if s.size] if self._normalises_batches else merged(route)

        def run(segment: Segment, part: Batch) -> Tensors:
            with self.bank.use([segment], segment.size):
                return self._swapped.run(self._own(segment.adapter), piece, part)

        return one_by_one(segments, batch, run)

    def _own(self, adapter: Mapping[str, Tensor]) -> Adapter:
        """The tensors of `adapter` that this part uses; running statistics are detached."""
        return {
            key: tensor if self.trained(key) else tensor.detach()
            for key, tensor in adapter.items()
            if key in self._held
        }


class _Swapped(nn.Module):
    """Runs a function while other tensors stand in for those of `module`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def run(self, tensors: Adapter, piece: Piece, batch: Batch) -> Tensors:
        """`piece(batch)` with `tensors` in the module."""
        named = {f"module.{key}": tensor for key, tensor in tensors.items()}
        result: Tensors = functional_call(self, named, (piece, batch), tie_weights=False)
        return result

    def forward(self, piece: Callable[[Batch], Any], batch: Batch) -> Any:
        """`piece(batch)`: functional_call calls this."""
        return piece(batch)


def whole_shapes(module: nn.Module, spec: ModelSpec) -> Shapes:
    """The shape of each tensor that full training moves, from the module of the whole model."""
    shapes = {key: tuple(tensor.shape) for key, tensor in _tensors(module).items()}
    idle = tuple(f"{spec.parts.base}.{path}." for path in spec.parts.unused)
    shapes = {
        key: shape
        for key, shape in shapes.items()
        if not key.endswith(".mask_token") and not key.startswith(idle)
    }
    # The position table is interpolated to the job's image size once the weights are read.
    return shapes | position_shape(module, spec)


def _tensors(module: nn.Module) -> Adapter:
    """The module's parameters and floating-point buffers, detached."""
    return {key: t for key, t in module.state_dict().items() if t.is_floating_point()}
