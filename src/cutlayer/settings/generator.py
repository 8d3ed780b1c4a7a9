"""Settings of a generator of images, and of the training of our own small diffusion model."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.compute import Compute
from cutlayer.settings.section import Count, Section

Share = Annotated[float, Field(ge=0, lt=1)]


class GeneratorSettings(Section):
    """Where generated images come from."""

    source: Literal["demo", "diffusion", "diffusers", "folder"] = "demo"
    """demo (a bundled diffusion model of the demo's classes), diffusion (a folder that `cutlayer
    generator train` wrote), diffusers (a pipeline of that library), or folder (images generated
    earlier, one subfolder a class).
    """

    path: str | None = None
    """The folder, or a diffusers pipeline's folder or hub name; demo needs none."""

    prompts: dict[str, str] = Field(default_factory=dict)
    """What a diffusers pipeline is asked for, by class: a text, or the name or number by which a
    class-conditional pipeline knows the class.
    """

    template: str = "a photo of a {}"
    """The text for a class that has no prompt of its own; {} becomes the name of the class."""

    steps: Annotated[int, Field(ge=2)] | None = None
    """Denoising steps for an image; null: the generator's own number."""

    guidance: Annotated[float, Field(ge=1)] | None = None
    """How strongly the class is insisted on (1: no guidance); null: the generator's own."""

    batch: Count = 16
    """Images that are drawn at once."""

    resize: bool = False
    """Shrink or stretch images to the size of the data's; without it another size is refused."""

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
    """How our own small diffusion model is built and trained."""

    steps: Count = 5000
    """Training steps."""

    batch_size: Count = 128
    """Images in one step."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate: it rises during `warmup` and then falls to 0 as a cosine."""

    warmup: Count = 200
    """Steps in which the learning rate rises."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW."""

    drop_label: Share = 0.1
    """Share of the images that are trained without their label, which guidance needs."""

    average: Share = 0.999
    """Decay of the moving average of the weights; that average is what is kept."""

    widths: tuple[Count, ...] = (64, 96)
    """Channels of the U-Net at each resolution, in multiples of 8; each has half the side of the
    one before.
    """

    fold: Count | None = None
    """Side of the squares of pixels that become channels, which saves computing; null: as large as
    leaves 14 or more a side.
    """

    blocks: Count = 1
    """Residual blocks at each resolution."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Numbers that matrices are multiplied in; bfloat16 is faster where the processor has it."""

    checkpoint_every: Count = 250
    """Steps from one state that can be resumed to the next."""

    sheet_every: Count = 1000
    """Steps from one sheet of sample images to the next."""

    compute: Compute = "auto"
    """What computes: cpu, cuda (a GPU), cuda:N (the GPU with that number, from 0), mps (Apple's
    GPU), or auto: a GPU of CUDA where there is one, else the CPU.
    """

    @model_validator(mode="after")
    def _widths_divide_into_groups(self) -> Self:
        if not self.widths or any(width % 8 for width in self.widths):
            raise ValueError(
                f"widths is {self.widths}: take one or more multiples of 8, as in [64, 96]"
            )
        return self
