"""Exports the first blocks of a model as an ONNX graph, by torch's own exporter."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from cutlayer.errors import ModelError
from cutlayer.model.cut import CutModel
from cutlayer.model.inputs import normalisation
from cutlayer.programs.graph import OPSET
from cutlayer.settings.precision import Precision

_SAMPLES, _TOKENS = 2, 7
"""Sizes of the example that is traced; neither may be 1, since 1 would become a constant."""


class _DevicePart(nn.Module):
    """Preprocessing, embedding and the first `cut` blocks; see `wire.program_ports`."""

    def __init__(self, model: CutModel, cut: int, score: str | None) -> None:
        super().__init__()
        self.module = model.module  # the exporter reads the weights from it
        self._model, self._cut, self._score = model, cut, score
        self._normalise = None
        if model.spec.modality == "image":
            self._normalise = normalisation(model.spec)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        model = self._model
        if self._normalise is not None:
            scale, shift = self._normalise
            inputs = {"pixel_values": (given[0] * scale + shift).to(model.dtype)}
        else:
            inputs = {"input_ids": given[0], "attention_mask": given[1]}
        found = model.frozen_forward(inputs, self._cut, self._score)
        outputs = (found.hidden.float(),)
        return outputs if found.scores is None else (*outputs, found.scores.float())


def export_core(
    model: CutModel, cut: int, score: str | None, precision: Precision
) -> onnx.ModelProto:
    """The graph of a device's blocks, whose inputs and outputs `wire.program_ports` names.

    model: a part that holds `cut` blocks, on the CPU, in float16 if precision is float16. score:
    ranks tokens; None: none is given. Raises ModelError if the family cannot be exported.
    """
    part = _DevicePart(model, cut, score)
    batch = torch.export.Dim("batch")
    spec = model.spec
    if spec.modality == "image":
        names = ["images"]
        example: tuple[Tensor, ...] = (
            torch.zeros(_SAMPLES, spec.channels, spec.image_size, spec.image_size),
        )
        sizes: tuple[dict[int, torch.export.Dim], ...] = ({0: batch},)
    else:
        tokens = torch.export.Dim("tokens", min=2, max=spec.max_tokens)
        names = ["ids", "attention"]
        example = tuple(torch.ones(_SAMPLES, _TOKENS, dtype=torch.int64) for _ in names)
        sizes = ({0: batch, 1: tokens}, {0: batch, 1: tokens})
    outputs = ["activations"] if score is None else ["activations", "scores"]
    try:
        with _quietly(), torch.no_grad():
            made = torch.onnx.export(
                part,
                example,
                dynamo=True,
                dynamic_shapes=(sizes,),
                input_names=names,
                output_names=outputs,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors have no other common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model.path: the blocks of {spec.path} cannot be exported for light devices "
            f"({type(error).__name__}: {reason}): join with torch"
        ) from None
    assert made is not None
    found = onnx.load_from_string(made.model_proto.SerializeToString())
    if precision == "int8":
        found = _quantised(found)
    _forget(found)
    return found


def _forget(model: onnx.ModelProto) -> None:
    """Remove what running does not need: the nodes' places in our code, and inner shapes."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for one in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        one.ClearField("doc_string")
        del one.metadata_props[:]


@contextmanager
def _quietly() -> Iterator[None]:
    """Switches off the warnings of exporter and quantiser, which are about their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with weight matrices in int8; their inputs are quantised while it runs.

    Weights take 7 of the 8 bits: x86 cores of AVX2 add two products in 16 bits, which 8 bits of
    weight times 8 of input overflow, so that programs would be far less exact there than elsewhere.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder:
        path = Path(folder) / "whole.onnx"
        small = path.with_name("small.onnx")
        onnx.save(model, str(path))
        with _quietly():
            quantize_dynamic(
                str(path),
                str(small),
                op_types_to_quantize=["MatMul"],
                weight_type=QuantType.QInt8,
                reduce_range=True,
                per_channel=True,
            )
        return onnx.load(io.BytesIO(small.read_bytes()))
