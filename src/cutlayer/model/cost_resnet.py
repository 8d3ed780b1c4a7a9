"""What a part of a residual network costs when every weight of it trains.

Activations are the inputs of convolutions and norms and the outputs of ReLU. The means and
deviations of a batch are left out: they are few, for any number of samples.
"""

from __future__ import annotations

from cutlayer.model.parameter_counts import FLOAT_BYTES, Cost, Side
from cutlayer.model.residual import Conv, Map
from cutlayer.model.spec import ModelSpec

# An index of max pooling takes as much memory as two floats.
INDEX_FLOATS = 2


def part_cost(spec: ModelSpec, first: int, last: int, side: Side, *, incoming: bool) -> Cost:
    """The cost of blocks first ... last - 1, and of the layers before or after them on `side`.

    incoming: whether a gradient must be computed for the first block's input.
    """
    net = spec.residual
    assert net is not None
    maps = net.maps
    parameters = forward = backward = saved = 0
    if side in ("device", "whole"):
        parameters += _parameters(net.stem)
        forward += _flops(net.stem, net.image)
        backward += _flops(net.stem, net.image)  # the images need no gradient
        saved += net.image.numbers + 2 * net.stem_map.numbers + INDEX_FLOATS * maps[0].numbers
    if first < last:
        saved += maps[first].numbers
    for index in range(first, last):
        block, at = net.blocks[index], maps[index]
        wanted = incoming or index > first or side in ("device", "whole")
        if block.shortcut is not None:
            parameters += _parameters(block.shortcut)
            flops = _flops(block.shortcut, at)
            forward, backward = forward + flops, backward + flops * (1 + wanted)
            saved += at.through(block.shortcut).numbers
        for number, conv in enumerate(block.convs):
            parameters += _parameters(conv)
            flops = _flops(conv, at)
            forward, backward = forward + flops, backward + flops * (1 + (wanted or number > 0))
            at = at.through(conv)
            saved += 2 * at.numbers  # the input of the norm, and the output of ReLU
    if side in ("server", "whole"):
        head = 2 * spec.head_inputs * spec.num_classes
        wanted = incoming or first < last or side == "whole"
        parameters += (spec.head_inputs + 1) * spec.num_classes
        forward, backward = forward + head, backward + head * (1 + wanted)
        saved += spec.head_inputs
    return Cost(0, parameters, forward, backward, FLOAT_BYTES * saved)


def _parameters(conv: Conv) -> int:
    """The kernel, and weight, bias, mean and variance of its batch normalisation."""
    return conv.kernel**2 * conv.inputs * conv.outputs + 4 * conv.outputs


def _flops(conv: Conv, at: Map) -> int:
    return 2 * conv.kernel**2 * conv.inputs * at.through(conv).numbers
