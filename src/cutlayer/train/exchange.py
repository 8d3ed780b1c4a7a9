"""The messages between a device and the server in one training step, in their order.

The server, devices in this process, devices over a network and both links all follow the list that
`step_exchanges` gives; another kind of step has another list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutlayer.model.cut import CutModel
    from cutlayer.settings.method import Method

Payload = bytes | float
"""An exchange carries a frame, or a loss, which is a plain number."""


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

    A device that runs the whole model sends its loss. One that trains nothing only sends
    activations. One that holds the model's tail gets the server's hidden states and answers with
    their gradient. fits: whether the server fits the uplink's codec right before this step.
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
