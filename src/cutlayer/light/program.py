"""Runs a program by onnxruntime, on the chosen provider."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cutlayer.errors import ModelError, RefusedError, RunError
from cutlayer.files import read_bounded
from cutlayer.light.graph_check import MAX_GRAPH_BYTES, check_graph
from cutlayer.light.job import LightJob
from cutlayer.wire.program_ports import ProgramKey

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""onnxruntime's providers, by the name of --provider."""

_TYPES = {
    "images": "tensor(float)", "ids": "tensor(int64)", "attention": "tensor(int64)",
    "keep": "tensor(int64)", "means": "tensor(float)", "prefix_analysis": "tensor(float)",
    "other_analysis": "tensor(float)", "step": "tensor(float)", "energy": "tensor(float)",
    "hidden": "tensor(float)", "scores": "tensor(float)", "kept": "tensor(int64)",
    "mask": "tensor(bool)", "codes": "tensor(uint8)", "scale": "tensor(float)",
    "low": "tensor(float16)", "high": "tensor(float16)", "rms": "tensor(float16)",
    "prefix_symbols": "tensor(int32)", "other_symbols": "tensor(int32)",
}  # fmt: skip

Arrays = dict[str, NDArray[Any]]


def check_provider(name: str) -> str:
    """onnxruntime's name of a provider. Raises RunError if this installation lacks it."""
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
    """The hardware that runs programs. threads: of the CPU; 0: one for each core."""

    provider: str = "cpu"
    threads: int = 0


class Program:
    """One graph, ready to run.

    graph: its file, beside the file of weights. Raises RefusedError for a graph that does not match
    `key` or does more than compute, and ModelError if the provider cannot run it.
    """

    def __init__(
        self, graph: Path, weights: Path, key: ProgramKey, job: LightJob, compute: Compute
    ) -> None:
        self.key = key
        self._inputs = key.inputs(job.is_text, job.prefix)
        self._outputs = key.outputs(job.is_text, job.prefix)
        if key.coding.kind == "levels" and key.coding.bits > 8:
            raise RefusedError(
                f"program: it quantises to {key.coding.bits} bits, but codes have 1 to 8: run the "
                "same cutlayer on both sides"
            )
        content = read_bounded(graph, MAX_GRAPH_BYTES)
        check_graph(content, weights.name, weights.stat().st_size)
        provider = check_provider(compute.provider)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = compute.threads
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # A memory pattern would reserve the memory of all values together.
        options.enable_mem_pattern = False
        try:
            self._session = onnxruntime.InferenceSession(
                str(graph), options, providers=list(dict.fromkeys([provider, PROVIDERS["cpu"]]))
            )
        except Exception as error:  # onnxruntime's errors have no other common base
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
            found = self._session.run(None, {name: given[name] for name in self._inputs})
        except Exception as error:  # as above
            raise RunError(f"program: it cannot be computed ({_short(error)})") from None
        outputs = dict(zip(self._outputs, found, strict=True))
        if not np.isfinite(outputs["energy"]).all():
            raise RunError(
                "program: its activations contain NaN, infinity or values beyond float32: take "
                "another --precision"
            )
        return outputs

    def _check_ports(self) -> None:
        for due, there in (
            (self._inputs, self._session.get_inputs()),
            (self._outputs, self._session.get_outputs()),
        ):
            found = [(one.name, one.type) for one in there]
            wanted = [(name, _TYPES[name]) for name in due]
            if found != wanted:
                raise RefusedError(
                    f"program: its graph has {found} instead of {wanted}: run the same cutlayer on "
                    "both sides"
                )


@cache
def _share_arena() -> None:
    """Let all programs share memory that grows by the amount needed, not by doubling.

    The peak is a third lower than with onnxruntime's default, at the same speed.
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
