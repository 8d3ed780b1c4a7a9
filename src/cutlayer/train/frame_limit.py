"""The largest frame that a job needs: both sides accept no larger one."""

import math

from cutlayer.model.cut import CutModel


def frame_limit(model: CutModel, batch: int) -> int:
    """Bytes of the largest frame, and of what it unpacks to: a whole adapter, or a batch's values.

    batch: samples in one frame of activations at most.
    """
    spec = model.spec
    adapter = sum(math.prod(shape) for shape in model.shapes().values())
    rows = max(spec.tokens_at(cut) * spec.width_at(cut) for cut in range(spec.depth + 1))
    # Float32 values at most; the rest (one mask bit a token, labels) is small, and so are headers
    # but where each sample has one.
    values = max(adapter, batch * (rows + spec.width + spec.tokens))
    return 4 * values + 256 * batch + 2**17
