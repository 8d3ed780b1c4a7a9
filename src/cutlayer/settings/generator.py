"""Settings of a generator of images, and of the training of our own small diffusion model."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.section import Count, Section

Share = Annotated[float, Field(ge=0, lt=1)]


class Generator(Section):
    """Where generated images come from.

    source: demo (the bundled diffusion model of the demo's classes), diffusion (a folder that
    `cutlayer generator train` wrote), diffusers (a pipeline by local path or hub name, class-
    conditional or text-to-image), folder (images generated earlier, one subfolder a class).
    prompts: what a `diffusers` pipeline is asked for, by class: a text, or the name or number that
    a class-conditional pipeline knows the class by. template: the text for every class where no
    prompts are given; {} is the class.
    steps: denoising steps; None is the generator's own number. guidance: how strongly the label is
    insisted on (1: no guidance); None is the generator's own.
    batch: images computed at once. resize: shrink or stretch to the data's size (refused without).
    """

    source: Literal["demo", "diffusion", "diffusers", "folder"] = "demo"
    path: str | None = None
    prompts: dict[str, str] = Field(default_factory=dict)
    template: str = "a photo of a {}"
    steps: Annotated[int, Field(ge=2)] | None = None
    guidance: Annotated[float, Field(ge=1)] | None = None
    batch: Count = 16
    resize: bool = False

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.source != "demo" and not self.path:
            raise ValueError(f"path is missing: source {self.source!r} needs a path")
        if self.source == "demo" and self.path:
            raise ValueError(
                f"path is {self.path!r} with source 'demo', which reads none: "
                "take source diffusion, diffusers or folder, or leave the path out"
            )
        return self

    @model_validator(mode="after")
    def _template_names_the_class(self) -> Self:
        if self.template.count("{}") != 1 or self.template.count("{") != 1:
            raise ValueError(
                f"template {self.template!r} must hold {{}} once, where the class goes, "
                "as in 'a photo of a {}'"
            )
        return self


class GeneratorTraining(Section):
    """How our own small diffusion model is built and trained.

    widths: channels at each resolution of the U-Net, each half the one before. fold: squares of
    fold x fold pixels become channels, which saves compute; None leaves 14 or more a side.
    blocks: residual blocks at each resolution.
    drop_label: share of samples trained without label, which guidance needs. average: decay of the
    moving average of the weights that is kept. warmup: steps of rising rate; then it falls as a
    cosine to 0.
    precision: of the matrices in training; bfloat16 is faster where the processor has it.
    checkpoint_every, sheet_every: steps between resumable states, and between sample sheets.
    """

    steps: Count = 5000
    batch_size: Count = 128
    lr: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Count = 200
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    drop_label: Share = 0.1
    average: Share = 0.999
    widths: tuple[Count, ...] = (64, 96)
    fold: Count | None = None
    blocks: Count = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: Count = 250
    sheet_every: Count = 1000
    compute: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _widths_divide_into_groups(self) -> Self:
        if not self.widths or any(width % 8 for width in self.widths):
            raise ValueError(
                f"widths is {self.widths}: take one or more multiples of 8, as in [64, 96]"
            )
        return self
