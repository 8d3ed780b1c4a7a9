"""Membership inference: does the exported adapter tell who it was trained on?

By the loss of a sample (Yeom et al. 2018, arXiv 1709.01604), read at few false alarms as Carlini et
al. 2022 (arXiv 2112.03570) ask for. Attacks with shadow models find more.
"""

import numpy as np
import torch

from cutlayer.data.dataset import Dataset, stratified
from cutlayer.data.partition import divide
from cutlayer.data.sources import load
from cutlayer.inference.trained import Trained
from cutlayer.model.cut import Segment
from cutlayer.planning.calibration.survey_result import Floats
from cutlayer.planning.leakage.record import Members
from cutlayer.privacy.gradient_labels import area
from cutlayer.record.folder import ROSTER_FILE
from cutlayer.record.row_lines import read_rows
from cutlayer.seeds import numpy_rng

MOST = 1000
FALSE_ALARMS = 0.01
_BATCH = 32


def tell_members(trained: Trained, device: int | None = None) -> Members | None:
    """Tell samples that devices trained on from as many of the test set, at most MOST of each.

    Devices that were in no round's average have no members. device: whose samples, where each keeps
    an adapter of its own. None for a run over a network, whose devices may have had data of their
    own, and for one that no device trained.
    """
    if (trained.folder / ROSTER_FILE).is_file():
        return None
    counted = _counted(trained) if device is None else {device}
    if not counted:
        return None
    job = trained.job
    train, test = load(job.data_in_use, job.seed, trained.preprocess.fit)
    shares, _ = divide(train.labels, job.data.partition, job.devices.count, job.seed)
    rows = np.unique(np.concatenate([shares[number] for number in sorted(counted)]))
    size = min(MOST, len(rows), len(test))
    inside, outside = _some(train.subset(rows), size, job.seed), _some(test, size, job.seed)
    own, other = -_losses(trained, inside), -_losses(trained, outside)
    scores = np.concatenate([own, other])
    limit = np.quantile(other, 1 - FALSE_ALARMS, method="higher")
    return Members(
        auc=area(scores, np.arange(len(scores)) < len(own)),
        caught=float((own > limit).mean()),
        members=len(own),
        others=len(other),
    )


def _counted(trained: Trained) -> set[int]:
    """The devices that took part in a round and were neither late nor lost in it."""
    return {
        device
        for row in read_rows(trained.folder)
        for device in row.decisions.keys() - {*row.late, *row.lost}
    }


def _some(data: Dataset, size: int, seed: int) -> Dataset:
    return data.subset(stratified(data.labels, size, numpy_rng(seed, "audit", "members")))


@torch.no_grad()
def _losses(trained: Trained, data: Dataset) -> Floats:
    """The cross entropy [n] of each sample, in nats, by the unsplit model."""
    found = []
    for start in range(0, len(data), _BATCH):
        part = data.subset(range(start, min(start + _BATCH, len(data))))
        route = [Segment(trained.adapter, len(part))]
        logits = trained.model.forward(trained.preprocess(part.inputs), route).float()
        labels = torch.from_numpy(part.labels).to(logits.device)
        found.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none").cpu())
    losses: Floats = torch.cat(found).double().numpy()
    return losses
