"""Settings of generated data: who draws it, how much of which class, and what it weighs."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cutlayer.settings.generator import GeneratorSettings
from cutlayer.settings.section import Section

Mix = Literal["missing", "whole"]
POLICIES = ("emd", "samples")


class GeneratedData(Section):
    """Images that the server generates and trains on beside the devices."""

    generator: GeneratorSettings
    """What draws the images."""

    share_epsilon: Annotated[float, Field(gt=0)] | None = None
    """Epsilon of the noise on the counts of labels that devices send (differential privacy: the
    smaller, the noisier); null: no noise.
    """

    amount: Annotated[int, Field(ge=1)] = 200
    """Images of a round at most; in a world only as many as the server can draw and train on while
    devices are busy.
    """

    mix: Mix = "missing"
    """Classes of the images: those that a round's devices lack (missing), or as the whole fleet has
    them (whole).
    """

    weight: str = "emd"
    """Weight in the average of the model trained on generated images. emd: half the devices' mean
    distance in labels, inferred by us for GenFV; samples: as one more device with that many; or
    `module:FUNCTION`, which gets a `Participants`.
    """

    seconds_per_image: Annotated[float, Field(ge=0)] | None = None
    """Seconds to draw one image, in the world's time; null: as measured when the run begins."""

    def __hash__(self) -> int:
        """A generator's prompts are a dict; jobs, which hold this, are keys of caches."""
        return hash(self.model_dump_json())

    @model_validator(mode="before")
    @classmethod
    def _names_a_generator(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("generator") is None:
            raise ValueError(
                "generator is missing: name what draws the images, as in generator: {source: demo}"
            )
        return values

    @field_validator("weight")
    @classmethod
    def _known_policy(cls, weight: str) -> str:
        if weight not in POLICIES and ":" not in weight:
            raise ValueError(
                f"no policy is called {weight!r}: take one of {', '.join(POLICIES)}, or "
                "package.module:FUNCTION for your own"
            )
        return weight
