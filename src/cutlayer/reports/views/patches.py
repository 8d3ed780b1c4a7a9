"""Which patches were kept: images of the test set with the rank of every patch."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt

from cutlayer.reports.views.pack import View
from cutlayer.reports.views.runs import Patches

_LARGEST = 224


def patches(found: Patches) -> View:
    """The images, and the ranks that say what any budget keeps."""
    count = found.ranks.shape[1]
    rest = "merged into one token" if found.rest == "merge" else "dropped"
    if ":" in found.score:
        ranked = f"{found.score}, from queries and keys of"
    else:
        payer = "the CLS token pays" if found.score == "cls" else "all tokens pay"
        ranked = f"the attention that {payer} them after"
    return {
        "kind": "patches",
        "id": "patches",
        "title": "Which patches are kept",
        "text": f"Patches of test images ranked by {ranked} block {found.cut}: "
        f"kept ones are bright, the others are {rest}. Below each image stands what "
        "the trained model then answers.",
        "data": {
            "side": int(count**0.5),
            "rest": found.rest,
            "budgets": list(found.budgets),
            "own": found.own,
            "images": [
                {
                    "source": source(image),
                    "label": label,
                    "ranks": ranks.tolist(),
                    "predicted": list(predicted),
                }
                for image, label, ranks, predicted in zip(
                    found.images, found.labels, found.ranks, found.predicted, strict=True
                )
            ],
        },
    }


def source(image: npt.NDArray[np.uint8]) -> str:
    """An image [H, W, C] as a data URL: PNG when small, JPEG above 64 pixels."""
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    small = max(picture.size) <= 64
    picture.thumbnail((_LARGEST, _LARGEST))
    stream = io.BytesIO()
    if small:
        picture.save(stream, format="PNG", optimize=True)
    else:
        picture.save(stream, format="JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
