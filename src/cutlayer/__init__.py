"""Fine-tune a transformer across devices that cannot hold it, over links that cannot carry it.

The verbs of the command line are functions here: `simulate`, `resume`, `compare`, `plan` and
`calibrate` take a `Job` (or what `load_job` reads from YAML) and return what they measured.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutlayer.errors import CutlayerError as CutlayerError
    from cutlayer.job import Job as Job
    from cutlayer.job import dump_job as dump_job
    from cutlayer.job import load_job as load_job
    from cutlayer.planning.calibration.calibrate import calibrate as calibrate
    from cutlayer.planning.plan import plan as plan
    from cutlayer.rounds.result import Result as Result
    from cutlayer.simulation.compare import compare as compare
    from cutlayer.simulation.simulate import resume as resume
    from cutlayer.simulation.simulate import simulate as simulate

__version__ = "0.1.0"

_HOME = {
    "CutlayerError": "cutlayer.errors",
    "Job": "cutlayer.job",
    "Result": "cutlayer.rounds.result",
    "calibrate": "cutlayer.planning.calibration.calibrate",
    "compare": "cutlayer.simulation.compare",
    "dump_job": "cutlayer.job",
    "load_job": "cutlayer.job",
    "plan": "cutlayer.planning.plan",
    "resume": "cutlayer.simulation.simulate",
    "simulate": "cutlayer.simulation.simulate",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds: only what is used is imported.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'cutlayer' has no attribute {name!r}")
