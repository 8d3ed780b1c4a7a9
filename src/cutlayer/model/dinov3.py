"""Image classification by DINOv3, for which transformers has no class.

The head reads the CLS token and the mean of the patches, as for DINOv2. Importing this module
registers the class, so that `AutoModelForImageClassification` makes it and adapters load on it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import (
    DINOv3ViTModel,
    DINOv3ViTPreTrainedModel,
)

__all__ = ["DINOv3ViTConfig", "DINOv3ViTForImageClassification"]


class DINOv3ViTForImageClassification(DINOv3ViTPreTrainedModel):  # type: ignore[misc]
    """A DINOv3 vision transformer with a linear head over CLS token and mean patch."""

    base_model_prefix = "dinov3_vit"

    def __init__(self, config: DINOv3ViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.dinov3_vit = DINOv3ViTModel(config)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_more: Any) -> ImageClassifierOutput:
        """Logits [B,C] of pixel_values [B,3,H,W]."""
        hidden = self.dinov3_vit(pixel_values).last_hidden_state
        patches = hidden[:, 1 + self.config.num_register_tokens :]
        pooled = torch.cat([hidden[:, 0], patches.mean(dim=1)], dim=1)
        return ImageClassifierOutput(logits=self.classifier(pooled))


# Without exist_ok, transformers silently ignores classes that are registered for its own configs.
AutoModelForImageClassification.register(
    DINOv3ViTConfig, DINOv3ViTForImageClassification, exist_ok=True
)
