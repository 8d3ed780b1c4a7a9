"""What makes and runs programs in this process, where the packages for it are installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from cutlayer.errors import JobError
from cutlayer.job import Job

if TYPE_CHECKING:
    from cutlayer.model.cut import CutModel
    from cutlayer.train.device_blocks import DeviceBlocks

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def missing_package() -> str | None:
    """The first package that is not installed here; None if programs can be made and run."""
    return next((name for name in _PACKAGES if find_spec(name) is None), None)


def blocks_for(job: Job, model: CutModel) -> DeviceBlocks | None:
    """What runs the blocks of devices in other numbers than float32; None if the job allows none.

    Raises JobError where a package is missing.
    """
    others = [one for one in job.method.allocation.precisions if one != "float32"]
    if not others:
        return None
    missing = missing_package()
    if missing is not None:
        raise JobError(
            f"method.allocation.precisions: {' and '.join(others)} are computed by onnxruntime, "
            f"and {missing} is not installed: pip install 'cutlayer[onnx]', or take float32 alone"
        )
    from cutlayer.programs.run_here import BlocksHere

    return BlocksHere(job, model)
