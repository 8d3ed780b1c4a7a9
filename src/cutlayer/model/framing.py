"""How a checkpoint's images are resized: size, crop and kernel of its preprocessor_config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutlayer.errors import ModelError
from cutlayer.model.files import MOST_PIXELS, read_json
from cutlayer.resize import Fit, Kernel

if TYPE_CHECKING:
    from cutlayer.model.spec import ModelSpec

# Kernels by Pillow's numbers. Box, hamming and lanczos, which torch lacks, become similar ones.
_KERNELS: dict[int, Kernel] = {
    0: "nearest-exact", 1: "bicubic", 2: "bilinear", 3: "bicubic", 4: "bilinear", 5: "bilinear",
}  # fmt: skip
# Processors that read a single number as the shorter edge; others read it as both edges.
_BY_SHORTER_EDGE = ("Bit", "CLIP", "ConvNext", "EfficientNet", "PoolFormer", "LeViT", "Levit")
_CROPS_UNASKED = ("Bit", "CLIP", "Deit", "DeiT", "LeViT", "Levit")
_CONVNEXT_CROP = 224 / 256
_CONVNEXT_WHOLE = 384


def checkpoint_fit(path: str) -> Fit | None:
    """How the checkpoint's preprocessor resizes and crops an image to the size it names.

    None if there is no preprocessor_config.json, or it does not resize or names no size. Raises
    ModelError if its images are not square or its settings cannot be understood.
    """
    config = read_json(path, "preprocessor_config.json")
    if config is None or config.get("do_resize") is False:
        return None
    if config.get("size") is None and not _crops(config, ""):
        return None
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    try:
        fit = _fit(config, kind)
        if not 1 <= fit.side <= fit.edge <= 2 * MOST_PIXELS:
            raise ValueError(f"their sides are not within 1 and {MOST_PIXELS} pixels")
        return fit
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise ModelError(
            f"model.path: preprocessor_config.json of {path} makes no square images ({error}): "
            "restore or correct the file"
        ) from None


def fit_for(spec: ModelSpec) -> Fit | None:
    """How a job's images are resized and cropped for the model of `spec`; None for texts."""
    if spec.modality == "text":
        return None
    own = checkpoint_fit(spec.path)
    side, kernel = spec.image_size, own.kernel if own else "bilinear"
    if spec.aspect == "checkpoint" and own is not None:
        return own.at(side)
    return Fit(side, side, spec.aspect == "crop", kernel)


def preprocessor_at(config: dict[str, Any], fit: Fit) -> dict[str, Any]:
    """The preprocessor's config rewritten so that it makes images as `fit` does."""
    edge = {"shortest_edge": fit.edge} if fit.keep_aspect else _square(fit.edge)
    config = {key: value for key, value in config.items() if key != "crop_pct"}
    if "ConvNext" in str(config.get("image_processor_type")) + str(
        config.get("feature_extractor_type")
    ):
        # This processor takes the size after the crop, and its share of the edge before the crop.
        return config | {"size": {"shortest_edge": fit.side}, "crop_pct": fit.side / fit.edge}
    cropped = fit.keep_aspect or fit.edge != fit.side
    return config | {"size": edge, "do_center_crop": cropped, "crop_size": _square(fit.side)}


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _fit(config: dict[str, Any], kind: str) -> Fit:
    kernel = _KERNELS[int(config.get("resample", 2))]
    size = config.get("size") or config["crop_size"]  # without a resize, only the crop has a size
    if not isinstance(size, dict):
        shorter = kind.startswith(_BY_SHORTER_EDGE)
        size = {"shortest_edge": size} if shorter else {"height": size, "width": size}
    keep_aspect = "shortest_edge" in size
    edge = int(size["shortest_edge"]) if keep_aspect else _side(size)
    if kind.startswith("ConvNext"):
        whole = edge >= _CONVNEXT_WHOLE
        share = float(config.get("crop_pct") or _CONVNEXT_CROP)
        return Fit(edge, edge if whole else int(edge / share), not whole, kernel)
    if not _crops(config, kind):
        return Fit(edge, edge, keep_aspect, kernel)
    side = _side(config.get("crop_size", {"height": 224, "width": 224}))
    if edge < side:
        raise ValueError(f"it cuts {side} pixels out of {edge}")
    return Fit(side, edge, keep_aspect, kernel)


def _crops(config: dict[str, Any], kind: str) -> bool:
    """Whether a square is cut out of the middle: if do_center_crop says so, or a size is given."""
    asked = "crop_size" in config or kind.startswith(_CROPS_UNASKED)
    return bool(config.get("do_center_crop", asked))


def _side(size: Any) -> int:
    """The side of a square, given as a number or as height and width."""
    if not isinstance(size, dict):
        return int(size)
    height, width = int(size["height"]), int(size["width"])
    if height != width:
        raise ValueError(f"{height} x {width} pixels")
    return height
