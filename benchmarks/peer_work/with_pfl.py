"""pfl-research's simulated backend: FederatedAveraging of PyTorchModel, in one process.

Nothing travels in it; what would is the trained tensors, once down and once up a device, and these
are the bytes that are told.
"""

from pathlib import Path
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from work import Told, Work, size_of, trained


class Scored(nn.Module):
    """The model as pfl wants one, with a loss and metrics; remembers the losses of a round."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []

    def loss(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of a batch."""
        found = nn.functional.cross_entropy(self.model(pixel_values=pixels).logits, labels)
        self.losses.append(found.item())
        return found

    @torch.no_grad()
    def metrics(self, pixels: Tensor, labels: Tensor) -> dict[str, Weighted]:
        """The same, of an evaluation; the work has none."""
        logits = self.model(pixel_values=pixels).logits
        found = nn.functional.cross_entropy(logits, labels, reduction="sum")
        return {"loss": Weighted(found.item(), len(labels))}


class Rounds(TrainingProcessCallback):
    """Tells of each round."""

    def __init__(self, told: Told, scored: Scored) -> None:
        self._told, self._scored = told, scored

    def after_central_iteration(self, *given: Any, **named: Any) -> tuple[bool, Metrics]:
        """See TrainingProcessCallback."""
        losses = self._scored.losses
        self._told.round_done(sum(losses) / len(losses))
        losses.clear()
        return False, Metrics()


def main(path: Path, out: Path) -> None:
    """Do the work."""
    work, told = Work.read(path), Told(out, ("pfl", "transformers", "peft", "torch"))
    scored = Scored(work.make_model())
    travelling = [one for one in scored.parameters() if one.requires_grad]
    model = PyTorchModel(
        scored,
        local_optimizer_create=lambda tensors, lr: work.optimizer(travelling),
        central_optimizer=torch.optim.SGD(travelling, lr=1.0),
    )
    devices = FederatedDataset(
        lambda number: Dataset(list(work.device(number)), user_id=str(number)),
        get_user_sampler("minimize_reuse", list(range(work.devices))),
    )
    backend = SimulatedBackend(devices, devices, postprocessors=[WeightByUser()])
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=work.rounds + 1,
            train_cohort_size=work.devices,
            val_cohort_size=None,
        ),
        backend,
        model,
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=work.lr, local_batch_size=work.batch
        ),
        callbacks=[Rounds(told, scored)],
    )
    size = size_of(trained(scored)) * work.devices
    told.write(size, size)
