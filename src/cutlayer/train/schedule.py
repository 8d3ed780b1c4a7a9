"""The learning rate of a step of a job's training, by the schedule that the job names."""

import math
from typing import assert_never

from cutlayer.settings.training import Training


def rate_at(training: Training, round: int, step: int, steps: int) -> float:
    """The learning rate of a step, by its place among the job's steps.

    steps: how many the device takes in this round; for a server adapter that devices share, how
    many the device with the most takes. All rounds count as equally long, so the rate depends only
    on (round, step) and is the same on both sides of a network and after a resumption.
    """
    done, all_steps = round * steps + step, training.rounds * steps
    warmup = training.warmup_steps or training.warmup_share * all_steps
    if done < warmup:
        # Starts at 1 / warmup: with a rate of 0 the first step would change nothing.
        return training.lr * min(1.0, (done + 1) / warmup)
    if training.schedule == "constant":
        return training.lr
    share = (done - warmup) / (all_steps - warmup)
    if training.schedule == "linear":
        return training.lr * (1 - share)
    if training.schedule == "cosine":
        return training.lr * (1 + math.cos(math.pi * share)) / 2
    assert_never(training.schedule)
