"""A LoRA adapter and its backbone as one plain model: W + (alpha / rank) B A in place of W."""

from cutlayer.errors import ModelError
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.model.spec import ModelSpec
from cutlayer.model.weights import load_model
from cutlayer.settings.model import Lora, Model

_A, _B = ".lora_A.weight", ".lora_B.weight"


def merge(adapter: Adapter, trained: CutModel, model: Model, seed: int) -> tuple[CutModel, Adapter]:
    """The whole model, and all its tensors with the adapter merged in, on the CPU.

    trained: the model that computes with the adapter; model, seed: what it was loaded by. Raises
    ModelError for an adapter that is not one of the model.
    """
    plain, classes = model.model_copy(update={"lora": Lora()}), trained.spec.num_classes
    whole = load_model(plain, classes, seed, train="full")
    merged, held = whole.new_adapter(0), trained.module.state_dict()
    scale = model.lora.alpha / model.lora.rank
    # What the checkpoint lacks is the trained model's, drawn or read with its adapter.
    for key, tensor in (adapter | {key: held[key] for key in trained.drawn}).items():
        value = tensor.detach().cpu()
        if key.endswith(_B):
            continue
        name = key.removesuffix(_A) + ".weight" if key.endswith(_A) else key
        if name not in merged:
            raise ModelError(f"adapter: {key} has no place in {model.path}: take its own model")
        if key.endswith(_A):
            other = adapter[key.removesuffix(_A) + _B].detach().cpu()
            # In double precision: rounded once, as the sum of two branches is.
            change = scale * (other.double() @ value.double())
            merged[name] = (merged[name].double() + change).to(merged[name].dtype)
        else:
            merged[name] = value.to(merged[name].dtype)
    return whole, merged


def auto_class(spec: ModelSpec) -> str | None:
    """The class of plain transformers that loads the whole model by itself; None if it has none."""
    from transformers.models.auto import modeling_auto

    auto, known = {
        "image": (
            "AutoModelForImageClassification",
            modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        ),
        "text": (
            "AutoModelForSequenceClassification",
            modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        ),
    }[spec.modality]
    named = known.get(spec.family, ())
    names = (named,) if isinstance(named, str) else named
    return auto if spec.parts.architecture in names else None
