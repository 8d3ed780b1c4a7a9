"""Generated data without a generator that has to learn: fast, and the same for the same seed."""

from typing import Any

import numpy as np
import pytest
import torch

from cutlayer.data.dataset import Dataset
from cutlayer.job import Job
from cutlayer.seeds import derive
from helpers import small_job

GENERATED = {"generator": {"source": "demo"}, "amount": 24, "seconds_per_image": 0.01}
WORLD = {"reference_loss_db": 75.0, "server_flops": 1e12}


def quick_job(*settings: str, **sections: Any) -> Job:
    """One round of four devices with 15 images each, in the mean."""
    few = ("data.train_samples=60", "data.test_samples=20", "training.rounds=1")
    return small_job(*few, *settings, **sections)


class Stripes:
    """Draws a bright row whose place is the class, on noise."""

    image_size, channels = (28, 28), 1

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.seconds_per_image = 0.125

    def generate(self, labels: np.ndarray, seed: int) -> torch.Tensor:
        rng = np.random.default_rng(derive(seed, "stripes"))
        images = rng.integers(0, 60, (len(labels), 1, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[0, 2 * label : 2 * label + 2] = 255
        return torch.from_numpy(images)


@pytest.fixture
def stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every generator of a run draws stripes."""

    def load(settings: object, like: Dataset, device: object) -> Stripes:
        return Stripes(like.classes)

    monkeypatch.setattr("cutlayer.rounds.generated.load_generator", load)
