"""A LoRA adapter and its backbone as one plain model: W + (alpha / rank) B A in place of W."""

from cutlayer.errors import ModelError
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter, head_shapes
from cutlayer.model.spec import ModelSpec
from cutlayer.model.weights import without_ties

_A, _B, _BASE = ".lora_A.weight", ".lora_B.weight", ".base"


def merge(adapter: Adapter, model: CutModel) -> Adapter:
    """Every tensor of the whole model under its Hugging Face name, the adapter merged in.

    model: whole, and loaded for LoRA. Raises ModelError for an adapter that is not the model's.
    """
    scale = model.spec.lora.alpha / model.spec.lora.rank
    left, merged = dict(adapter), {}
    for key, tensor in model.module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        path, _, leaf = key.rpartition(".")
        name = path.removesuffix(_BASE)
        if path == name or name + _A not in adapter:
            merged[key] = tensor
        elif leaf == "weight":
            # Summed in double precision, so that the merged weight is rounded only once.
            change = left.pop(name + _B).double() @ left.pop(name + _A).double()
            if model.spec.parts.transposed:
                change = change.T
            merged[f"{name}.weight"] = (tensor.double() + scale * change).to(tensor.dtype)
        else:
            merged[f"{name}.{leaf}"] = tensor
    head = head_shapes(model.spec)
    for key, tensor in left.items():
        if key not in head:
            raise ModelError(
                f"adapter: {key} has no place in {model.spec.path}: take the model it belongs to"
            )
        merged[key] = tensor
    return without_ties({key: tensor.detach() for key, tensor in merged.items()}, model.spec)


def auto_class(spec: ModelSpec) -> str | None:
    """The class of plain transformers that loads the whole model by itself; None if it has none."""
    from transformers.models.auto import modeling_auto

    kind = "language" if spec.parts.language else spec.modality
    auto, known = {
        "language": (
            "AutoModelForCausalLM",
            modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        ),
        "image": (
            "AutoModelForImageClassification",
            modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        ),
        "text": (
            "AutoModelForSequenceClassification",
            modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        ),
    }[kind]
    named = known.get(spec.family, ())
    names = (named,) if isinstance(named, str) else named
    return auto if spec.parts.architecture in names else None
