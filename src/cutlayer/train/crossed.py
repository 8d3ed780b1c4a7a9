"""Hidden states that came through a cut, as the server fits its bases to them."""

from dataclasses import dataclass

from torch import Tensor

from cutlayer.wire.codecs.seam import MERGED, Rows
from cutlayer.wire.known_tokens import known_tokens
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.places import find_places


@dataclass(frozen=True, eq=False)
class Crossed:
    """Samples at a cut: hidden [B,T,D]; mask [B,T] bool (False is padding) or None; positions
    [B,T], each token's place in its sample or, with token classes, its class, or `MERGED`.
    """

    hidden: Tensor
    mask: Tensor | None
    positions: Tensor

    @property
    def rows(self) -> Rows:
        """The tokens without padding, and their positions."""
        values, positions = self.hidden.flatten(0, 1), self.positions.flatten()
        if self.mask is not None:
            valid = self.mask.flatten()
            values, positions = values[valid], positions[valid]
        return Rows(values, positions)


def crossed(
    message: ActivationsMessage, prefix: int, tokens: int | None, classes: int = 0
) -> Crossed:
    """The samples of a message. classes: of the known tokens; 0: none are known.

    Frames in 4 bits do not say which tokens were kept: if some were left out, tokens after the
    prefix have no position and, like a merged token, the mean of all tokens.
    """
    if classes:
        mask = None if message.mask is None else message.mask.cpu()
        positions = known_tokens(message.labels.cpu(), mask, message.num_classes, classes)
        return Crossed(message.hidden, message.mask, positions)
    positions = find_places(message.hidden, message.places).clone()
    if tokens is not None and message.places is None:
        positions[:, prefix:] = MERGED
    return Crossed(message.hidden, message.mask, positions)
