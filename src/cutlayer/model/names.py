"""How Hugging Face names the parts of each family of models that can be cut."""

from dataclasses import dataclass
from typing import Literal

Modality = Literal["image", "text"]


@dataclass(frozen=True)
class Family:
    """How Hugging Face names the parts of one `model_type`.

    module, architecture, config: where transformers keeps the classification class.
    base: attribute of the classification model that holds all but the head; `embeddings`,
    `blocks` and `norm` (None: blocks end in their own norm) are paths below it. head: the linear
    layer that gives the logits.
    query ... down: linear layers of a transformer's block, as paths below the block.
    prefix: tokens before the patches, registers not counted. pool: what the head reads.
    asks_to_interpolate: the embeddings take other image sizes only with an argument.
    """

    module: str
    architecture: str
    config: str
    modality: Modality
    base: str
    blocks: str
    norm: str | None
    pool: Literal["cls", "cls+mean", "pooler", "map"]
    embeddings: str = "embeddings"
    head: str = "classifier"
    prefix: int = 1
    query: str = "attention.q_proj"
    key: str = "attention.k_proj"
    value: str = "attention.v_proj"
    output: str = "attention.o_proj"
    up: str = "mlp.fc1"
    down: str = "mlp.fc2"
    layer_scale: bool = False
    asks_to_interpolate: bool = False
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    patch_size: int = 16
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


FAMILIES: dict[str, Family] = {
    "vit": Family(
        module="transformers.models.vit.modeling_vit",
        architecture="ViTForImageClassification",
        config="ViTConfig",
        modality="image",
        base="vit",
        blocks="layers",
        norm="layernorm",
        pool="cls",
        asks_to_interpolate=True,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    "deit": Family(
        module="transformers.models.deit.modeling_deit",
        architecture="DeiTForImageClassification",
        config="DeiTConfig",
        modality="image",
        base="deit",
        blocks="layers",
        norm="layernorm",
        pool="cls",
        asks_to_interpolate=True,
        prefix=2,
    ),
    "dinov2": Family(
        module="transformers.models.dinov2.modeling_dinov2",
        architecture="Dinov2ForImageClassification",
        config="Dinov2Config",
        modality="image",
        base="dinov2",
        blocks="encoder.layer",
        norm="layernorm",
        pool="cls+mean",
        layer_scale=True,
        patch_size=14,
    ),
    "dinov2_with_registers": Family(
        module="transformers.models.dinov2_with_registers.modeling_dinov2_with_registers",
        architecture="Dinov2WithRegistersForImageClassification",
        config="Dinov2WithRegistersConfig",
        modality="image",
        base="dinov2_with_registers",
        blocks="encoder.layer",
        norm="layernorm",
        pool="cls+mean",
        layer_scale=True,
    ),
    "bert": Family(
        module="transformers.models.bert.modeling_bert",
        architecture="BertForSequenceClassification",
        config="BertConfig",
        modality="text",
        base="bert",
        blocks="encoder.layer",
        norm=None,
        pool="pooler",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        output="attention.output.dense",
        up="intermediate.dense",
        down="output.dense",
        targets=("query", "value"),
    ),
    "resnet": Family(
        module="transformers.models.resnet.modeling_resnet",
        architecture="ResNetForImageClassification",
        config="ResNetConfig",
        modality="image",
        base="resnet",
        blocks="encoder.stages",
        norm=None,
        pool="map",
        embeddings="embedder",
        head="classifier.1",
        prefix=0,
        targets=(),
    ),
}
