"""The size of the largest frame that a job needs: both sides refuse larger ones."""

import math

from cutlayer.model.cut import CutModel


def frame_limit(model: CutModel, batch: int) -> int:
    """Bytes of the largest frame, and of what it unpacks to: a whole adapter, or a batch's values.

    batch: samples in one frame of activations at most.
    """
    spec = model.spec
    adapter = sum(math.prod(shape) for shape in model.shapes().values())
    rows = max(spec.tokens_at(cut) * spec.width_at(cut) for cut in range(spec.depth + 1))
    # Values take at most a float32 each. The rest (a mask bit for each token, labels) is small, and
    # so are headers, unless each sample has one.
    values = max(adapter, batch * (rows + spec.width + spec.tokens))
    return 4 * values + 256 * batch + 2**17
