"""When a run is over: after the job's rounds, or once accuracy has not risen for so many."""

from collections.abc import Mapping

from cutlayer.settings.training import Training


def out_of_patience(training: Training, accuracy: Mapping[int, float | None]) -> bool:
    """Whether the last `training.patience` rounds brought no higher accuracy than before.

    accuracy: by the number of rounds done. Only evaluations that `evaluate_every` asks for count,
    so that a run which is given more rounds later stops where it would have stopped at once.
    """
    due = {
        done: found
        for done, found in accuracy.items()
        if found is not None and done % training.evaluate_every == 0
    }
    if training.patience is None or not due:
        return False
    best = max(due, key=lambda done: (due[done], -done))
    return max(due) - best >= training.patience


def is_over(training: Training, rounds_done: int, accuracy: Mapping[int, float | None]) -> bool:
    """Whether a run of so many rounds goes on no further. accuracy: see `out_of_patience`."""
    return rounds_done >= training.rounds or out_of_patience(training, accuracy)
