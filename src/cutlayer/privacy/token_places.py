"""Where tokens stood, told from what they hold, for frames that do not say so.

A token carries where it stood (its position is added to it before the first block), and the
attacker knows where those of public images did: it runs the device part on them itself.
"""

import torch
from torch import Tensor

from cutlayer.privacy.ridge import ridge


def guess_places(public: Tensor, kept: Tensor, attacked: Tensor, patches: int) -> Tensor:
    """The likeliest rising places [m, K] of tokens attacked [m, K, D].

    public [n, K, D]: tokens that stood at kept [n, K] of so many patches.
    """
    goals = torch.nn.functional.one_hot(kept.flatten(), patches).to(public)
    found = ridge(public.flatten(0, 1), goals)
    return rising(attacked @ found[:-1] + found[-1])


def rising(scores: Tensor) -> Tensor:
    """The strictly rising places [m, K] whose scores [m, K, N] have the largest sum: tokens cross
    in the order in which they stood.
    """
    K, N = scores.shape[1:]
    total, came = scores[:, 0].clone(), []
    total[:, N - K + 1 :] = -torch.inf
    for k in range(1, K):
        best, where = total.cummax(dim=1)
        came.append(where)
        total = torch.full_like(total, -torch.inf)
        total[:, 1:] = best[:, :-1] + scores[:, k, 1:]
        total[:, N - K + k + 1 :] = -torch.inf
    last = total.argmax(dim=1)
    places = [last]
    for where in reversed(came):
        last = where.gather(1, (last - 1)[:, None])[:, 0]
        places.append(last)
    return torch.stack(places[::-1], dim=1)
