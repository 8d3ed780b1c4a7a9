"""Passes of a model compiled by torch.compile, so that training steps are faster.

A pass is compiled for each combination of shapes, but only for the first few: steps of other sizes
run uncompiled, with the same result up to rounding. On a CUDA GPU a pass is a CUDA graph, whose
results are overwritten by the next pass (see `kept`).
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cutlayer.errors import JobError, RunError
from cutlayer.model.bank import Segment
from cutlayer.model.lora import Batch, Piece, Tensors
from cutlayer.model.stack import AdapterStack, Run, runs_of

MOST_SHAPES = 8
"""How many combinations of shapes are compiled: as many as torch keeps for one function."""

_Stack = tuple[dict[str, Tensor], int, int]
"""The tensors of n adapters by name [n, ...], n, and the number of samples of each adapter."""


class CompiledPasses:
    """Compiles passes through one model.

    run: computes a piece of the model for a route and a batch, as `Weights.run` does.
    """

    def __init__(
        self, run: Callable[[Sequence[Segment], Batch, Piece], Tensors], device: torch.device
    ) -> None:
        self._run = run
        self._graphs = device.type == "cuda"
        self._functions: dict[object, Callable[..., Tensors]] = {}
        self._shapes: set[object] = set()

    def pass_of(
        self, name: object, route: Sequence[Segment], batch: Batch, piece: Piece
    ) -> Tensors:
        """A pass, compiled if its shapes are among the first seen. name: of the piece."""
        stacks = [_stack_of(run) for run in runs_of([(s.adapter, s.size) for s in route if s.size])]
        shapes = _shapes(name, batch, stacks)
        if shapes not in self._shapes and len(self._shapes) >= MOST_SHAPES:
            return self._run(route, batch, piece)
        self._shapes.add(shapes)
        if name not in self._functions:
            self._functions[name] = self._compile(piece)
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        # Importing it takes as long as torch itself.
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._functions[name](batch, stacks)
        except TorchDynamoException as fault:
            said = str(fault).strip().splitlines()[0]
            raise RunError(
                f"training.compile: this model cannot be compiled here ({said}): leave it out"
            ) from None

    def kept(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Results of a pass, copied where the next pass would overwrite them."""
        if not self._graphs:
            return list(tensors)
        return [None if tensor is None else tensor.clone() for tensor in tensors]

    def _compile(self, piece: Piece) -> Callable[..., Tensors]:
        run = self._run

        def computed(batch: Batch, stacks: Sequence[_Stack]) -> Tensors:
            route = [
                Segment(row, size)
                for tensors, count, size in stacks
                for row in AdapterStack(tensors, count).rows
            ]
            return run(route, batch, piece)

        mode = "reduce-overhead" if self._graphs else None
        return torch.compile(computed, dynamic=False, mode=mode)


def check_compiler(device: torch.device) -> None:
    """Raise JobError if torch finds no compiler for this torch device."""
    if device.type == "cpu":
        name = os.environ.get("CXX", "g++")
        missing = None if shutil.which(name) else f"the C++ compiler {name!r}"
    elif device.type == "cuda":
        missing = None if importlib.util.find_spec("triton") else "the package triton"
    else:
        missing = f"a compiler for {device.type!r}"
    if missing:
        raise JobError(
            f"training.compile: true but {missing}, which torch compiles with, was not found: "
            "install it, or leave it out"
        )


def _stack_of(run: Run) -> _Stack:
    names = list(run.adapters[0])
    return {name: run.stacked(name) for name in names}, len(run.adapters), run.size


def _shapes(name: object, batch: Batch, stacks: Sequence[_Stack]) -> object:
    """All that a compiled pass depends on: the piece, the shapes and the samples of adapters."""
    return (
        name,
        tuple((key, _shape(tensor)) for key, tensor in batch.items()),
        tuple(
            (count, size, tuple((key, _shape(tensor)) for key, tensor in tensors.items()))
            for tensors, count, size in stacks
        ),
    )


def _shape(tensor: Tensor | None) -> object:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype, tensor.requires_grad)
