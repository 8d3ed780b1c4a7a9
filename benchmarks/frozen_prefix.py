"""Keeps what a model's frozen first blocks make of each image, so that a grid of runs computes it
once and not at every visit, run and test.
"""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from cutlayer.model.bank import Segment
from cutlayer.model.cut import Activations, CutModel, Route

SCORE = "cls"


class FrozenPrefix(CutModel):
    """`model` with a memory: images only, and on the CPU.

    cuts: where the unsplit model may go on from what is kept. Results are those of `model`, beyond
    rounding: the last frozen block always computes the scores of its tokens, as a device that
    selects tokens does, and images are computed in batches of their own.
    """

    def __init__(
        self, model: CutModel, cuts: Sequence[int], before: "FrozenPrefix | None" = None
    ) -> None:
        self.__dict__.update(vars(model))
        self.cuts = sorted(cuts, reverse=True)
        self._kept: dict[tuple[bytes, int], tuple[Tensor, Tensor]] = before._kept if before else {}

    def device_forward(
        self, inputs: dict[str, Tensor], cut: int, route: Route, score: str | None = None
    ) -> Activations:
        """As CutModel's; from memory where the blocks before `cut` have nothing trained."""
        if cut not in self.cuts or score not in (None, SCORE) or not self._is_bare(route, cut):
            return super().device_forward(inputs, cut, route, score)
        pixels = inputs["pixel_values"]
        keys = [
            (blake2b(image.numpy().tobytes(), digest_size=16).digest(), cut) for image in pixels
        ]
        new = list({key: at for at, key in enumerate(keys) if key not in self._kept}.items())
        if new:
            with torch.no_grad():
                part = {"pixel_values": pixels[[at for _, at in new]]}
                found = super().device_forward(part, cut, [Segment({}, len(new))], SCORE)
            assert found.scores is not None
            rows = zip(found.hidden.clone(), found.scores.clone(), strict=True)
            self._kept.update(zip((key for key, _ in new), rows, strict=True))
        hidden, scores = (torch.stack(one) for one in zip(*map(self._kept.get, keys), strict=True))
        return Activations(hidden, None, scores if score else None)

    def forward(
        self, inputs: dict[str, Tensor], route: Route, wanted: Tensor | None = None
    ) -> Tensor:
        """As CutModel's; the first blocks from memory where nothing in them is trained."""
        for cut in self.cuts:
            if self._is_bare(route, cut):
                made = self.device_forward(inputs, cut, route)
                return self.server_forward(made.hidden, made.mask, cut, route, wanted)
        return super().forward(inputs, route, wanted)

    def _is_bare(self, route: Route, cut: int) -> bool:
        return all(self._adds_nothing(segment, cut) for segment in route)

    def _adds_nothing(self, segment: Segment, cut: int) -> bool:
        """Whether no adapter of the blocks before `cut` trains, or changes what they compute."""
        return not any(
            tensor.requires_grad or bool(tensor.any())
            for name, tensor in segment.adapter.items()
            if name.endswith("lora_B.weight") and self.spec.position(name) < cut
        )
