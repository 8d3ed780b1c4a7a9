"""Labels told from gradients at a cut: by their length, or by their direction.

Li et al. 2022, arXiv 2102.08504, for two classes; here each class against all others. With the last
blocks on devices these gradients go up to the server, which has no labels; otherwise they go down
to the device, and whoever listens there may learn what it may not know.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.data.dataset import Dataset, stratified
from cutlayer.model.cut import Segment
from cutlayer.planning.calibration.survey_result import Floats
from cutlayer.planning.leakage.record import GradientLabels
from cutlayer.privacy.crossing import Victim
from cutlayer.seeds import numpy_rng

MOST = 100
"""Public samples that directions are learnt from, at most."""
_BATCH = 16
_HALF = 0.5


def tell_labels(victim: Victim, public: Dataset, attacked: Dataset, cut: int) -> GradientLabels:
    """How well the class of each attacked sample is told, after learning from public ones."""
    if len(public) > MOST:
        rng = numpy_rng(victim.job.seed, "audit", "gradients")
        public = public.subset(stratified(public.labels, MOST, rng))
    own, other = gradients(victim, public, cut), gradients(victim, attacked, cut)
    norms, other_norms = own.norm(dim=1).double().numpy(), other.norm(dim=1).double().numpy()
    own, other = (one / one.norm(dim=1, keepdim=True).clamp(min=1e-12) for one in (own, other))
    by_norm, by_direction = [], []
    for label in np.unique(attacked.labels):
        here, there = public.labels == label, attacked.labels == label
        if there.all() or not here.any() or here.all():
            continue
        # Whether this class has the longer gradients is learnt from the public samples.
        sign = 1.0 if area(norms, here) >= _HALF else -1.0
        by_norm.append(area(sign * other_norms, there))
        mean = own[torch.from_numpy(here)].mean(0)
        by_direction.append(area((other @ mean).double().numpy(), there))
    if not by_norm:
        return GradientLabels(_HALF, _HALF)
    return GradientLabels(float(np.mean(by_norm)), float(np.mean(by_direction)))


def gradients(victim: Victim, data: Dataset, cut: int) -> Tensor:
    """[n, T D]: of each sample's own loss, by what crosses at the cut, or enters the tail."""
    model, found = victim.model, []
    for start in range(0, len(data), _BATCH):
        part = data.subset(range(start, min(start + _BATCH, len(data))))
        route = [Segment(victim.adapter, len(part))]
        with torch.no_grad():
            given = model.device_forward(victim.preprocess(part.inputs), cut, route, None)
            hidden = given.hidden
            if model.spec.tail is not None:
                hidden = model.middle_forward(hidden, given.mask, cut, route)
        hidden = hidden.detach().requires_grad_()
        if model.spec.tail is not None:
            logits = model.tail_forward(hidden, given.mask, route)
        else:
            logits = model.server_forward(hidden, given.mask, cut, route)
        labels = torch.from_numpy(part.labels).to(logits.device)
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, [hidden])
        found.append(slope.float().flatten(1).cpu())
    return torch.cat(found)


def area(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """The area under the ROC curve: how often a positive scores above a negative, ties by half."""
    low = np.sort(scores[~positive])
    below, upto = (np.searchsorted(low, scores[positive], side=side) for side in ("left", "right"))
    return float(((below + upto) / 2).mean() / len(low))
