"""Settings of generated data: who draws it, how much of which class, and what it weighs."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cutlayer.settings.generator import Generator
from cutlayer.settings.section import Section

Mix = Literal["missing", "whole"]
POLICIES = ("emd", "samples")


class Augment(Section):
    """Generated data, which the server trains on beside the devices.

    share_epsilon: of the noise on the label histograms that devices send (see
    train/label_sharing.py); None for none.
    amount: images of a round at most; with a world only those that the server can draw and train on
    while devices are busy.
    mix: of which classes: those that a round's devices miss, or as in the whole fleet.
    weight: what the model trained on generated data weighs in the average, k2: emd (half the mean
    EMD of the devices, GenFV's policy [I]), samples (by the number of samples, as one device
    more), or `package.module:FUNCTION` for one's own (see train/generated.py).
    seconds_per_image: of drawing one, in the world's time; None: as measured when a run begins.
    """

    generator: Generator
    share_epsilon: Annotated[float, Field(gt=0)] | None = None
    amount: Annotated[int, Field(ge=1)] = 200
    mix: Mix = "missing"
    weight: str = "emd"
    seconds_per_image: Annotated[float, Field(ge=0)] | None = None

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
