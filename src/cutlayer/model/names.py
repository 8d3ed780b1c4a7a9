"""Every family of models that can be cut, by the `model_type` of its config.json."""

from cutlayer.model import families_image, families_language, families_text
from cutlayer.model.family import Family, Modality

__all__ = ["FAMILIES", "VARIANTS", "Family", "Modality"]

FAMILIES: dict[str, Family] = (
    families_image.FAMILIES | families_text.FAMILIES | families_language.FAMILIES
)
VARIANTS = families_image.VARIANTS
