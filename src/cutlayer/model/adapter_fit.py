"""Checks that a folder's adapter belongs to this model: its settings, tensors and classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from cutlayer.errors import ModelError
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import head_shapes

Shape = tuple[int, ...]

# Options of PEFT with which an adapter does not compute W + (alpha / rank) B A.
_OTHERWISE = (
    "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias", "use_qalora",
    "layer_replication", "trainable_token_indices", "target_parameters", "use_bdlora",
)  # fmt: skip


def check_settings(config: Mapping[str, Any], model: CutModel, field: str, folder: object) -> None:
    """Raise ModelError unless PEFT's adapter_config.json says what the job's model.lora says.

    field: the setting that names the folder, such as model.adapter.
    """
    kind, lora = config.get("peft_type"), model.spec.lora
    if kind != "LORA":
        raise ModelError(f"{field}: {folder} is of PEFT's type {kind!r}: give a LORA adapter")
    for option in _OTHERWISE:
        if config.get(option):
            raise ModelError(
                f"{field}: {folder} was trained with PEFT's {option}, which does not compute "
                "plain LoRA: give an adapter without it"
            )
    if config.get("bias", "none") != "none":
        raise ModelError(
            f"{field}: {folder} also trained biases (bias {config['bias']!r}): give an adapter "
            "with bias none"
        )
    for name, theirs, ours in (
        ("rank", config.get("r"), lora.rank),
        ("alpha", config.get("lora_alpha"), lora.alpha),
    ):
        if theirs != ours:
            raise ModelError(
                f"model.lora.{name}: {ours} but {folder} was trained with {theirs}: take the same"
            )


def check_shapes(
    held: Mapping[str, Shape],
    model: CutModel,
    field: str,
    folder: object,
    targets: object = None,
) -> None:
    """Raise ModelError unless an adapter has the tensors and shapes of the model's.

    held: the shape of each of the adapter's tensors. targets: target_modules of its configuration.
    """
    wanted = model.shapes()
    head, parts = head_shapes(model.spec), model.spec.parts.head
    for key in head:
        if key in wanted and key not in held:
            raise ModelError(
                f"{field}: {folder} lacks {key}, the head: train it with PEFT's modules_to_save "
                f"{list(parts.modules)}"
            )
    for key in [*wanted, *held]:
        if key in held and key in wanted:
            continue
        verb = "lacks" if key in wanted else "has an unknown tensor,"
        layers = f" (its target_modules are {targets})" if targets else ""
        raise ModelError(
            f"{field}: {folder} {verb} {key}{layers}: it must come from the same model, "
            "model.lora.targets and side"
        )
    for key, shape in held.items():
        if shape == wanted[key]:
            continue
        if key.rpartition(".")[0] in parts.outputs and shape[1:] == wanted[key][1:]:
            raise ModelError(
                f"{field}: {folder} tells {shape[0]} classes apart but the data has "
                f"{wanted[key][0]}: take data of the same classes"
            )
        raise ModelError(
            f"{field}: {key} of {folder} has shape {list(shape)}, not {list(wanted[key])}: it "
            "must come from the same model, rank and classes"
        )


def check_classes(theirs: Sequence[str], ours: Sequence[str], field: str, folder: object) -> None:
    """Raise ModelError for the first class that has another name in the adapter than in the data.

    LABEL_0, LABEL_1 and so on are what Hugging Face calls classes that nobody named.
    """
    if len(theirs) != len(ours):
        raise ModelError(
            f"{field}: {folder} names {len(theirs)} classes but the data has {len(ours)}: take "
            "data of the same classes"
        )
    if list(theirs) == [f"LABEL_{number}" for number in range(len(theirs))]:
        return
    for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
        if one != other:
            raise ModelError(
                f"{field}: class {number} of {folder} is {one!r} but the data's is {other!r}: "
                "take data with the same classes in the same order"
            )
