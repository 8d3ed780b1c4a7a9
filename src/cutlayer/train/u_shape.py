"""What both sides of a step share whose last blocks are on devices: activations without labels, and
the rows of a batch, which are its tokens that cross to the tail, and where these stand.
"""

import torch
from torch import Tensor

from cutlayer.errors import FrameError
from cutlayer.job import Job
from cutlayer.train.task import Task
from cutlayer.wire.codecs.seam import MERGED
from cutlayer.wire.messages import ActivationsMessage

UNLABELLED = 1
"""The number of classes in a frame of activations without labels: they then take no bits."""
MARKED = 2
"""That of a frame which says of each token, in one bit, whether it is learnt (see `learnt_of`)."""


def unlabelled(
    device: int,
    round: int,
    step: int,
    hidden: Tensor,
    mask: Tensor | None,
    learnt: Tensor | None = None,
) -> ActivationsMessage:
    """A message of activations without labels; arguments as in `ActivationsMessage`.

    learnt [B,T] bool: the tokens that are to cross to the tail, where not all of them do.
    """
    if learnt is not None:
        return ActivationsMessage(device, round, step, hidden, mask, learnt.long(), MARKED)
    labels = torch.zeros(len(hidden), dtype=torch.int64)
    return ActivationsMessage(device, round, step, hidden, mask, labels, UNLABELLED)


def learnt_of(job: Job, task: Task, goal: Tensor) -> Tensor | None:
    """[B,T] bool, on the CPU: of a batch with these targets the tokens whose features cross to the
    tail, where these are only those that a loss is taken of (method.tail_tokens); None for all.
    """
    return task.learnt([goal]) if job.method.tail_tokens == "learnt" else None


def crossing_of(job: Job, task: Task, goal: Tensor, mask: Tensor | None) -> Tensor | None:
    """As `crossing`, on the side that knows the targets: of a batch with this padding mask."""
    learnt = learnt_of(job, task, goal)
    return mask if learnt is None else learnt


def crossing(message: ActivationsMessage) -> Tensor | None:
    """[B,T] bool: the tokens of a message whose features cross to the tail; None for all.

    No token of padding is marked: its label does not cross, and is 0.
    """
    return message.labels.bool() if message.num_classes == MARKED else message.mask


def to_rows(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """hidden [B,T,D] -> [n,D]: its tokens in order, without those where mask [B,T] is False."""
    return hidden.flatten(0, 1) if mask is None else hidden[mask.to(hidden.device)]


def row_positions(B: int, T: int, mask: Tensor | None, prefix: int, selected: bool) -> Tensor:
    """Where in their samples the rows stand that `to_rows` makes, as both sides know it: [n], on
    the CPU.

    selected: not all tokens crossed the cut (see wire/tokens.py); only the prefix stands where it
    did then.
    """
    positions = torch.arange(T).expand(B, T)
    found = positions.flatten() if mask is None else positions[mask.to("cpu", torch.bool)]
    return torch.where(found < prefix, found, MERGED) if selected else found


def from_rows(rows: Tensor, shape: tuple[int, int, int], mask: Tensor | None, what: str) -> Tensor:
    """Undoes `to_rows`; tokens without a row are zero. Raises FrameError for rows of another
    batch."""
    B, T, D = shape
    count = B * T if mask is None else int(mask.sum())
    if tuple(rows.shape) != (count, D):
        raise FrameError(
            f"frame: {what} has {list(rows.shape)} numbers instead of [{count}, {D}]: run the same "
            "job on both sides"
        )
    if mask is None:
        return rows.view(shape)
    full: Tensor = torch.zeros(shape, dtype=rows.dtype, device=rows.device)
    full[mask.to(rows.device)] = rows
    return full
