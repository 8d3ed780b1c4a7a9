"""The model section of a job: which pretrained transformer, where it is cut, its adapters."""

from typing import Annotated, Literal

from pydantic import Field

from cutlayer.settings.section import Section


class Lora(Section):
    """LoRA adapters (arXiv 2106.09685): W + (alpha / rank) B A on chosen linear layers.

    targets: module name endings as in PEFT's `target_modules`, or "auto" for queries and values.
    side: which blocks carry adapters: before the cut (device), after it (server), or both.
    """

    rank: Annotated[int, Field(ge=1, le=2**14)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Literal["auto"] | tuple[str, ...] = "auto"
    side: Literal["both", "device", "server"] = "both"


class Model(Section):
    """The pretrained transformer and where it is cut.

    path: "demo" (bundled), "resnet18" (bundled without weights), a local checkpoint folder, or a
    Hugging Face hub name.
    image_size: pixels a side; None is the checkpoint's own. max_tokens bounds a text.
    cut: blocks on the device: 0 leaves it the embedding only, the model's depth leaves the server
    the final norm and the head.
    """

    path: Annotated[str, Field(min_length=1)] = "demo"
    weights: Literal["pretrained", "random"] = "pretrained"
    image_size: Annotated[int, Field(ge=1, le=2**14)] | None = None
    max_tokens: Annotated[int, Field(ge=2, le=2**16)] = 64
    cut: Annotated[int, Field(ge=0, le=2**12)] = 2
    lora: Lora = Lora()
