"""Runs one ONNX graph of a program by onnxruntime, on the provider that is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from cutlayer.errors import ModelError, RefusedError, RunError
from cutlayer.files import read_bounded
from cutlayer.light.graph_check import MAX_GRAPH_BYTES, check_graph
from cutlayer.wire.program_ports import Ports

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""What computes, by the name that a device is given."""

_TYPES = {
    "images": "tensor(float)", "ids": "tensor(int64)", "attention": "tensor(int64)",
    "activations": "tensor(float)", "scores": "tensor(float)", "keep": "tensor(int64)",
    "means": "tensor(float)", "prefix_analysis": "tensor(float)",
    "other_analysis": "tensor(float)", "step": "tensor(float)", "energy": "tensor(float)",
    "hidden": "tensor(float)", "kept": "tensor(int64)", "mask": "tensor(bool)",
    "codes": "tensor(uint8)", "scale": "tensor(float)", "low": "tensor(float16)",
    "high": "tensor(float16)", "rms": "tensor(float16)", "prefix_symbols": "tensor(int32)",
    "other_symbols": "tensor(int32)",
}  # fmt: skip

Arrays = dict[str, NDArray[Any]]


def check_provider(name: str) -> str:
    """onnxruntime's name of a provider. Raises RunError where this installation has it not."""
    there = onnxruntime.get_available_providers()
    if PROVIDERS[name] not in there:
        known = [own for own, theirs in PROVIDERS.items() if theirs in there]
        raise RunError(
            f"--provider: this onnxruntime has no {name}: take {' or '.join(known)}, or install "
            "the onnxruntime of that hardware"
        )
    return PROVIDERS[name]


@dataclass(frozen=True)
class Compute:
    """What runs programs. threads: of the CPU; 0: as many as it has cores."""

    provider: str = "cpu"
    threads: int = 0


class ReadyGraph:
    """One graph, ready to run.

    path: its file. weights: the one other file that it may read, in the same folder. Raises
    RefusedError for a graph with other inputs and outputs than `ports`, or which does more than
    compute, and ModelError where the provider cannot run it.
    """

    def __init__(self, path: Path, weights: Path, ports: Ports, compute: Compute) -> None:
        self.ports, self.compute = ports, compute
        content = read_bounded(path, MAX_GRAPH_BYTES)
        check_graph(content, weights.name, weights.stat().st_size)
        provider = check_provider(compute.provider)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = compute.threads
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # A pattern would set aside what all values together take.
        options.enable_mem_pattern = False
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=list(dict.fromkeys([provider, PROVIDERS["cpu"]]))
            )
        except Exception as error:  # onnxruntime's errors have no base but this
            raise ModelError(
                f"program: {compute.provider} cannot run it ({_short(error)}): take another "
                "--provider, or join with torch"
            ) from None
        if provider not in self._session.get_providers():
            raise RunError(
                f"--provider: {compute.provider} could not be started here: see that its drivers "
                "are installed, or take cpu"
            )
        self._check_ports()

    def run(self, given: Mapping[str, NDArray[Any]]) -> Arrays:
        """The outputs by name, of inputs by name. Raises RunError."""
        try:
            found = self._session.run(None, {name: given[name] for name in self.ports.inputs})
        except Exception as error:  # as above
            raise RunError(f"program: it cannot be computed ({_short(error)})") from None
        return dict(zip(self.ports.outputs, found, strict=True))

    def _check_ports(self) -> None:
        for due, there in (
            (self.ports.inputs, self._session.get_inputs()),
            (self.ports.outputs, self._session.get_outputs()),
        ):
            found = [(one.name, one.type) for one in there]
            wanted = [(name, _TYPES[name]) for name in due]
            if found != wanted:
                raise RefusedError(
                    f"program: its graph has {found} instead of {wanted}: run the same "
                    "cutlayer on both sides"
                )


@cache
def _share_arena() -> None:
    """Have all graphs share memory that grows by what is asked for, and not by doubling.

    It takes a third less at the peak than onnxruntime's default, at the same speed.
    """
    kind, memory = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    by_request = {
        "max_mem": 0,
        "arena_extend_strategy": 1,
        "initial_chunk_size_bytes": -1,
        "max_dead_bytes_per_chunk": -1,
    }
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo("Cpu", kind, 0, memory), onnxruntime.OrtArenaCfg(by_request)
    )


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
