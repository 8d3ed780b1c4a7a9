"""The names and shapes of the adapter's tensors, from a model's description alone."""

from collections.abc import Iterable

from cutlayer.model.spec import ModelSpec

Shapes = dict[str, tuple[int, ...]]


def block_shapes(spec: ModelSpec, blocks: Iterable[int]) -> Shapes:
    """LoRA tensors of some blocks, as `CutModel.shapes` names them."""
    rank = spec.lora.rank
    shapes: Shapes = {}
    for index in blocks:
        for linear in spec.linears:
            name = f"{spec.block_name(index)}.{linear.path}"
            if spec.carries_lora(name):
                shapes[f"{name}.lora_A.weight"] = (rank, linear.inputs)
                shapes[f"{name}.lora_B.weight"] = (linear.outputs, rank)
    return shapes
