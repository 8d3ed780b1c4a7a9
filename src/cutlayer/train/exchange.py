"""What crosses between a device and the server in one training step, in the order it crosses.

The server, devices in this process, devices over a network and both links walk the one list that
`step_exchanges` gives; a step of another kind is another list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutlayer.model.cut import CutModel
    from cutlayer.settings.method import Method

Payload = bytes | float
"""What an exchange carries: a frame, or a loss, which is a number and no frame."""


@dataclass(frozen=True)
class Exchange:
    """One message of a step.

    up: from the device to the server; else down, to the device.
    """

    name: str
    up: bool


ACTIVATIONS = Exchange("activations", up=True)
BASIS = Exchange("basis", up=False)
FEATURES = Exchange("features", up=False)
FEATURE_GRADIENT = Exchange("feature gradient", up=True)
GRADIENT = Exchange("gradient", up=False)
LOSS = Exchange("loss", up=True)


def step_exchanges(
    method: Method, model: CutModel, cut: int, fits: bool = False
) -> tuple[Exchange, ...]:
    """The exchanges of a step of a device that holds the first `cut` blocks.

    A device that runs the whole model tells its loss; one that trains nothing sends one way. One
    that holds the model's tail gets the server's hidden states, and answers with their gradient.
    fits: the server fits the uplink's codec right before this step.
    """
    if not method.split:
        return (LOSS,)
    up: tuple[Exchange, ...] = (BASIS, ACTIVATIONS) if fits else (ACTIVATIONS,)
    if model.spec.tail is not None:
        up = (*up, FEATURES, FEATURE_GRADIENT)
    trains = method.device == "trained" and model.names_before(cut)
    return (*up, GRADIENT) if trains else up


def trained_names(method: Method, model: CutModel, cut: int) -> tuple[str, ...]:
    """The tensors of the adapter that a device which holds the first `cut` blocks trains."""
    if not method.split:
        return tuple(model.shapes())
    if method.device == "frozen":
        return model.tail_names
    return model.device_names(cut)
