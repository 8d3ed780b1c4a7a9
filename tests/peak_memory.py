"""The peak memory of a piece of code, in processes of its own that nothing else has used."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

# VmHWM, not ru_maxrss: that outlives exec, so a child of a large test process reports the peak of
# its parent. A process imports once and forks for each measurement: what a fork holds as it begins
# is what Python and its packages take before there is a model.
_PROGRAM = r"""
import importlib, json, os, re, sys
import torch

def peak():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])

torch.set_num_threads(1)
importlib.import_module("transformers.models.dinov2.modeling_dinov2")
importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("vit")
exec(sys.argv[1])
for words in json.loads(sys.argv[2]):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        before = peak()
        returned = measure(*words)
        print(json.dumps({"before": before, "peak": peak(), "returned": returned}), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(1)
"""


@dataclass(frozen=True)
class Peak:
    """Bytes that a process held before and at most, and what `measure` returned."""

    before: int
    peak: int
    returned: int

    @property
    def net(self) -> int:
        """What was measured alone."""
        return self.peak - self.before

    def __str__(self) -> str:
        return f"{self.peak / 2**20:.1f} MiB, {self.net / 2**20:.1f} MiB of its own"


def peaks_of(code: str, *calls: tuple[Any, ...]) -> list[Peak]:
    """The peak of `measure`, which `code` defines, in a process for each call's arguments."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, code, json.dumps(calls)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Peak(**json.loads(line)) for line in done.stdout.splitlines()]
