"""The loop that cutlayer is measured against: transformers and PEFT alone, on one batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # of an older source tree, too
    from cutlayer.settings.compute import Precision
    from cutlayer.train.parts import Parts


def bare_loop(
    parts: Parts, samples: int, precision: Precision = "float32", compiled: bool = False
) -> Callable[[], None]:
    """A function that makes one step of PEFT's LoRA layers and AdamW, on the model's torch device.

    samples: of the batch, which is the same at every step and ready before the first. precision: of
    products, as torch is set to them and by autocast; compiled: by torch.compile.
    """
    import peft
    from transformers import AutoModelForImageClassification

    from cutlayer.model.files import find_file

    spec, place = parts.model.spec, parts.model.compute
    config = find_file(spec.path, "config.json")
    assert config is not None
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_pretrained(
        config.parent, num_labels=spec.num_classes, ignore_mismatched_sizes=True
    )
    settings = peft.LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        target_modules=r".*\.(q_proj|v_proj|query|value)",
        modules_to_save=["classifier"],
    )
    tuned = peft.get_peft_model(model, settings).train().to(place)
    trained = [tensor for tensor in tuned.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, fused=True)
    batch = parts.train.subset([number % len(parts.train) for number in range(samples)])
    pixels = parts.preprocess(batch.inputs)["pixel_values"].to(place)
    labels = torch.from_numpy(batch.labels).to(place)
    forward = torch.compile(tuned) if compiled else tuned
    half = precision == "bfloat16"

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(place.type, torch.bfloat16) if half else nullcontext():
            logits = forward(pixel_values=pixels).logits
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step
