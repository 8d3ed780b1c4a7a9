"""cutlayer itself, on the job that the work was made from; the bytes are those of its frames."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cutlayer.job import make_job
from cutlayer.record.rows import Row
from cutlayer.rounds.progress import Silent
from cutlayer.simulation.simulate import simulate
from work import Told


class Rounds(Silent):
    """Tells of each round."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def round_done(self, row: Row) -> None:
        """See Progress."""
        self._told.round_done(row.loss)


def main(path: Path, out: Path) -> None:
    """Run the job of the file; its last round also tests the adapter, which is timed with it."""
    torch.set_num_threads(1)
    told = Told(out, ("cutlayer", "transformers", "torch"))
    job = make_job(json.loads(path.read_text()))
    with TemporaryDirectory() as folder:
        result = simulate(job, out=Path(folder) / "run", progress=Rounds(told))
    rounds = len(result.rows)
    told.write(result.up_bytes / rounds, result.down_bytes / rounds)
