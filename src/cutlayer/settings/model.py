"""The model section of a job: which pretrained transformer, where it is cut, its adapters."""

from typing import Annotated, Literal

from pydantic import Field

from cutlayer.settings.section import Section


class Lora(Section):
    """LoRA adapters (arXiv 2106.09685): W + (alpha / rank) B A on chosen linear layers."""

    rank: Annotated[int, Field(ge=1, le=2**14)] = 8
    """Rank of the matrices A and B: more can learn more, and more is sent."""

    alpha: Annotated[float, Field(gt=0)] = 16.0
    """What the product B A is multiplied by, over the rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs that is set to 0 in training."""

    targets: Literal["auto"] | tuple[str, ...] = "auto"
    """Layers with adapters, by the ends of their names, as PEFT's `target_modules` has them;
    auto: the queries and values of attention.
    """

    side: Literal["both", "device", "server"] = "both"
    """Blocks with adapters: those on the device, those on the server, or both."""


class Model(Section):
    """The pretrained transformer and where it is cut."""

    path: Annotated[str, Field(min_length=1)] = "demo"
    """demo (a bundled ViT), resnet18 (bundled without weights), a checkpoint's folder, or its name
    on the Hugging Face hub.
    """

    weights: Literal["pretrained", "random"] = "pretrained"
    """Start from the checkpoint's weights, or from random ones drawn by the job's seed."""

    frozen_bits: Literal[4, 8, 32] = 32
    """Bits in which a weight of a block's frozen linear layers lies in memory, on devices and
    server: 32, or 4 or 8 (rounded, by bitsandbytes), which changes what the model computes a
    little.
    """

    image_size: Annotated[int, Field(ge=1, le=2**14)] | None = None
    """Pixels a side of the images that the model reads; null: what the checkpoint's preprocessor
    makes.
    """

    aspect: Literal["checkpoint", "crop", "stretch"] = "checkpoint"
    """How an image that is not square becomes so: crop (the middle is cut out), stretch, or as the
    checkpoint's preprocessor_config.json says (stretched where it has none).
    """

    max_tokens: Annotated[int, Field(ge=2, le=2**16)] = 64
    """Word pieces that a text is cut to, those at its beginning and end included."""

    cut: Annotated[int, Field(ge=0, le=2**12)] = 2
    """Blocks on the device. With 0 it runs the embedding only; with the model's depth the server
    runs the final norm and the head only.
    """

    tail: Annotated[int, Field(ge=0, le=2**12)] | None = None
    """Last blocks that run on the device too, with the final norm and the head, so that labels stay
    there (a U-shape); 0: the norm and the head alone; null: the server runs all after the cut.
    """

    lora: Lora = Lora()
    """The adapters that are trained."""

    adapter: str | None = None
    """Folder of a trained adapter to continue from, its head included: one that a run wrote, or
    PEFT's; where every weight is trained, a whole model. null: a new adapter and a new head.
    """
