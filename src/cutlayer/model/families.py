"""What is known of a checkpoint before it is loaded: its sizes, and which layers can be trained.

Only JSON files are read here: neither torch nor transformers is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutlayer.errors import ModelError
from cutlayer.model import residual
from cutlayer.model.files import read_json
from cutlayer.model.framing import checkpoint_fit
from cutlayer.model.layout import check_cut, read_transformer
from cutlayer.model.names import FAMILIES, VARIANTS, Family
from cutlayer.model.spec import ModelSpec, Train, check_train, match_targets

if TYPE_CHECKING:
    from cutlayer.settings.model import Model

__all__ = [
    "FAMILIES", "SUPPORTED", "Family", "ModelSpec", "Train", "check_train", "describe",
    "match_targets",
]  # fmt: skip

SUPPORTED = tuple(FAMILIES)


def describe(model: Model, num_classes: int = 0) -> ModelSpec:
    """The checkpoint that `model` names, from its config.json and preprocessor_config.json.

    num_classes: 0 while the data is not known.
    Raises ModelError for a checkpoint that is not there, a family that cannot be cut, or
    settings that the checkpoint does not allow.
    """
    config = read_json(model.path, "config.json")
    if config is None:
        raise ModelError(
            f"model.path: {model.path} has no config.json: give a Hugging Face checkpoint folder"
        )
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ModelError(
            f"model.path: {model.path} is of type {kind!r}: supported are {', '.join(FAMILIES)}"
        )
    family = _family(kind, config)
    try:
        if kind == "resnet":
            spec = _resnet(kind, family, config, model, num_classes)
        else:
            spec = read_transformer(kind, family, config, model, num_classes)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(
            f"model.path: config.json of {model.path} makes no {kind} model ({error}): "
            "restore the file"
        ) from None
    return spec


def _family(kind: str, config: dict[str, Any]) -> Family:
    """The family, or a variant of it if config.json names the variant's architecture."""
    names = config.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    variant = VARIANTS.get(first) if isinstance(first, str) else None
    family = FAMILIES[kind]
    return variant if variant is not None and variant.module == family.module else family


def _resnet(
    kind: str, family: Family, config: dict[str, Any], model: Model, num_classes: int
) -> ModelSpec:
    fit = checkpoint_fit(model.path)
    size = model.image_size or (None if fit is None else fit.side)
    network = residual.layout(config, size)
    check_cut(model, len(network.blocks))
    return ModelSpec(
        family=kind,
        path=model.path,
        weights=model.weights,
        modality="image",
        parts=family,
        depth=len(network.blocks),
        num_classes=num_classes,
        head_inputs=network.maps[-1].channels,
        cut=model.cut,
        tail=model.tail,
        frozen_bits=model.frozen_bits,
        lora=model.lora,
        image_size=network.image.side,
        aspect=model.aspect,
        channels=network.image.channels,
        residual=network,
    )
