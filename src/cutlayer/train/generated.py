"""Training on generated images: the server takes part in a round as one more device.

Starting from the round's global adapter, it trains device part and server part together on
generated images, and sends nothing. Its adapter joins the devices' average:
w = k1 sum rho_n w_n + k2 w_a, k1 + k2 = 1 (GenFL and GenFV, arXiv 2503.20166 and 2503.19676).
Here the first term is the result of the round's method: an average of adapters, or the one adapter
that the devices trained together or in turn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import mean

import numpy as np
import numpy.typing as npt

from cutlayer.allocate.decision import Decision
from cutlayer.data.dataset import Dataset
from cutlayer.errors import JobError
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter
from cutlayer.own_code import load_own_function
from cutlayer.train.device import GENERATED_DATA, Device
from cutlayer.train.exchange import LOSS
from cutlayer.train.pool import Pool
from cutlayer.train.server import Server
from cutlayer.train.stopwatch import Stopwatch


@dataclass(frozen=True, eq=False)
class Participants:
    """What a weight policy is given: m devices whose training counts, and the generated set.

    distances: [m] earth mover's distance EMD_n between a device's labels and those of the whole
    fleet. samples: [m] how many each device has. generated: how many images were generated.
    """

    distances: npt.NDArray[np.float64]
    samples: npt.NDArray[np.int64]
    generated: int


Policy = Callable[[Participants], float]
"""Gives k2 in [0, 1], the weight of the adapter trained on generated data."""


def by_emd(now: Participants) -> float:
    """Half the mean EMD, so larger if the devices' labels differ more from the fleet's; inferred by
    us.
    """
    return float(now.distances.mean()) / 2


def by_samples(now: Participants) -> float:
    """The weight that FedAvg gives to one more device, which holds the generated set."""
    return now.generated / (now.generated + int(now.samples.sum()))


_POLICIES: Mapping[str, Policy] = {"emd": by_emd, "samples": by_samples}


def find_policy(name: str) -> Policy:
    """The policy called `name`, or the function at `package.module:FUNCTION`.

    The policy returned raises JobError for a weight outside [0, 1]. Raises JobError if there is no
    such function.
    """
    if name in _POLICIES:
        return _POLICIES[name]
    own = load_own_function("generated.weight", name)

    def checked(now: Participants) -> float:
        weight = own(now)
        if not isinstance(weight, int | float | np.number) or not 0 <= weight <= 1:
            raise JobError(f"generated.weight: {name!r} gave {weight!r}: let it give 0 to 1")
        return float(weight)

    return checked


def train_generated(
    server: Server,
    start: Adapter,
    images: Dataset,
    round: int,
    decisions: Mapping[int, Decision],
    preprocess: Preprocessor,
) -> tuple[Adapter, float]:
    """Train on the generated set as a device would; returns the adapter and the mean loss.

    start: the round's global adapter, which is not changed. If devices are frozen, so are the
    blocks before the earliest of the round's cuts, and every block without an adapter.
    """
    names = tuple(start)
    if server.job.method.split and server.job.method.device == "frozen":
        first = min(one.cut for one in decisions.values())
        names = server.model.server_names(max(first, server.bare))
    place = server.model.compute
    own = {name: start[name].detach().clone().to(place) for name in names if name in start}
    one = Device(GENERATED_DATA, images, server.job, server.model, preprocess, own)
    one.begin(round, Decision(server.job.cut), None)
    pool, watch = Pool([one]), Stopwatch()
    losses = [float(loss) for step in range(one.steps) for loss in pool.send(LOSS, step, watch)]
    return {name: tensor.detach() for name, tensor in one.adapter.items()}, mean(losses)
