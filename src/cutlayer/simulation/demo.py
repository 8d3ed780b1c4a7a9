"""The main job on embedded defaults: ten devices, a bundled ViT, bundled images."""

from pathlib import Path

from cutlayer.job import Job, make_job
from cutlayer.rounds.progress import Progress
from cutlayer.simulation.compare import compare
from cutlayer.simulation.comparison import Comparison

METHODS = (
    "sflora",
    "tsflora",
    "tsflora-24x4 = tsflora tokens.keep=24 uplink.bits=4 downlink.bits=4",
)


def demo_job(seed: int = 0) -> Job:
    """Ten devices with non-IID images of clothes, and a ViT cut after its second block."""
    return make_job(
        {
            "seed": seed,
            "data": {"train_samples": 1500, "partition": {"alpha": 0.3, "min_samples": 16}},
            "training": {"rounds": 4, "batch_size": 8, "lr": 3e-3},
        }
    )


def demo(
    *, out: str | Path | None = None, seed: int = 0, progress: Progress | None = None
) -> Comparison:
    """Compare sflora with tsflora at two settings on the demo job: minutes on two cores.

    seed: of all runs. progress: hears what happens (None: nobody does).
    out: the folder of the runs (None: a new one below runs/). Raises as `compare`.
    """
    return compare(demo_job(seed), methods=METHODS, out=out, progress=progress)
