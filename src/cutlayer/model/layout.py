"""The sizes of a transformer's parts, read from its config.json by what its family says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutlayer.errors import ModelError
from cutlayer.model.family import Activation, Family, Flag
from cutlayer.model.files import MOST_BLOCKS, MOST_PIXELS, MOST_SIZE
from cutlayer.model.framing import checkpoint_fit
from cutlayer.model.spec import Linear, ModelSpec, Relative

if TYPE_CHECKING:
    from cutlayer.settings.model import Model

DEFAULTS = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "num_register_tokens": 0,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "pad_token_id": 0,
}
# CLIP's activation function x sigmoid(1.702 x) is several operations and keeps both factors for its
# gradient. GPT-2's tanh approximation of GELU is several operations too.
KEPT = {"quick_gelu": 2, "gelu_new": 4}
ACTIVATIONS: tuple[Activation, ...] = ("tanh", "gelu", "relu")


class Settings:
    """The settings of one tower in config.json, under their usual names.

    Raises ValueError for a section that is not there.
    """

    def __init__(self, family: Family, config: dict[str, Any]) -> None:
        self._family = family
        section = config if family.section is None else config.get(family.section, {})
        if not isinstance(section, dict):
            raise ValueError(f"{family.section} is no section")
        self._values = section

    def get(self, key: str) -> Any:
        """The setting, or the family's default for it; None if there is neither."""
        family = self._family
        default = family.defaults.get(key, DEFAULTS.get(key))
        value = self._values.get(family.keys.get(key, key))
        return default if value is None else value

    def number(self, key: str) -> int:
        """The setting as an integer of 0 or more. Raises ValueError or TypeError."""
        value = int(self.get(key))
        if not 0 <= value <= MOST_SIZE:
            raise ValueError(f"{key} is not within 0 and {MOST_SIZE}")
        return value

    def given(self, key: str) -> Any:
        """The setting as config.json has it, None where it has none."""
        return self._values.get(self._family.keys.get(key, key))

    def flag(self, flag: Flag) -> bool:
        """The value of a family's flag for this checkpoint."""
        if isinstance(flag, bool):
            return flag
        value = self._values.get(flag[0])
        return flag[1] if value is None else bool(value)


def read_transformer(
    kind: str, family: Family, config: dict[str, Any], model: Model, num_classes: int
) -> ModelSpec:
    """The sizes of a transformer. Raises ValueError, TypeError or ModelError."""
    settings = Settings(family, config)
    depth, width = settings.number("num_hidden_layers"), settings.number("hidden_size")
    if depth > MOST_BLOCKS:
        raise ValueError(f"num_hidden_layers is above {MOST_BLOCKS}")
    check_cut(model, depth)
    prefix = family.prefix + family.registers * settings.number("num_register_tokens")
    gated = settings.flag(family.gated)
    mlp = _mlp_width(family, settings, width, gated)
    attention, shared = _attention_widths(settings, width)
    image = family.modality == "image"
    size = patch = 0
    if image:
        patch = _side(settings.get("patch_size"), "patch_size")
        size = _image_size(settings, model, patch)
        patches = (size // patch) ** 2
        rows = (patches + family.prefix) * settings.flag(family.positions)
    else:
        rows = settings.number("max_position_embeddings")
        _check_length(family, settings, model, rows)
        patches = model.max_tokens - prefix
        rows *= settings.flag(family.positions)
    return ModelSpec(
        family=kind,
        path=model.path,
        weights=model.weights,
        modality=family.modality,
        parts=family,
        depth=depth,
        width=width,
        heads=settings.number("num_attention_heads"),
        linears=_linears(family, settings, width, (attention, shared), mlp, gated),
        attention_width=attention,
        key_width=shared,
        tied=settings.flag(family.tied),
        mlp_width=mlp,
        gated_mlp=gated,
        activation_keeps=KEPT.get(str(settings.get("hidden_act")), 1),
        norm_bias=settings.flag(family.norm_bias),
        head_activation=_activation(family, settings),
        pool_mean=family.pool == "mean" or settings.get("classifier_pooling") == "mean",
        neck_bias=settings.flag(family.neck_bias),
        prefix=prefix,
        patches=patches,
        image_size=size,
        aspect=model.aspect,
        patch_size=patch,
        channels=settings.number("num_channels") if image else 0,
        vocabulary=0 if image else settings.number("vocab_size"),
        embedding_width=int(settings.get("embedding_size") or width),
        position_rows=rows,
        token_types=0 if image else settings.number("type_vocab_size"),
        max_tokens=0 if image else model.max_tokens,
        num_classes=num_classes,
        head_inputs=2 * width if family.pool == "cls+mean" else width,
        relative=_relative(settings, width) if family.block_inputs == "relative" else None,
        cut=model.cut,
        tail=model.tail,
        frozen_bits=model.frozen_bits,
        lora=model.lora,
    )


def check_cut(model: Model, depth: int) -> None:
    """Raise ModelError when the cut is beyond the last block, or the tail reaches past the cut."""
    if model.cut > depth:
        raise ModelError(
            f"model.cut: {model.cut} is beyond the {depth} blocks of {model.path}: "
            f"take 0 to {depth}"
        )
    if model.tail is not None and model.cut + model.tail > depth:
        raise ModelError(
            f"model.tail: {model.tail} blocks after a cut at {model.cut} are more than the {depth} "
            f"of {model.path}: take 0 to {depth - model.cut}"
        )


def _attention_widths(settings: Settings, width: int) -> tuple[int, int]:
    """The width of the queries of all heads together, and of the keys (the values' is the same).

    Several queries may share a key (grouped-query attention), and the width of a head need not be
    the model's width divided by the number of heads.
    """
    heads = settings.number("num_attention_heads")
    if heads < 1:
        raise ValueError("num_attention_heads is 0")
    grouped = settings.get("num_key_value_heads")
    groups = heads if grouped is None else settings.number("num_key_value_heads")
    if groups < 1 or heads % groups:
        raise ValueError(f"num_attention_heads {heads} are no multiple of {groups} keys")
    own = settings.get("head_dim")
    if own is None:
        return width, width * groups // heads
    return heads * settings.number("head_dim"), groups * settings.number("head_dim")


def _mlp_width(family: Family, settings: Settings, width: int, gated: bool) -> int:
    named = "intermediate_size" in family.keys and settings.given("intermediate_size") is not None
    if not family.mlp_by_ratio or named:
        return settings.number("intermediate_size")
    ratio = settings.get("mlp_ratio")
    mlp = int(width * (4 if ratio is None else ratio))
    return (int(mlp * 2 / 3) + 7) // 8 * 8 if gated else mlp


def _linears(
    family: Family,
    settings: Settings,
    width: int,
    attention: tuple[int, int],
    mlp: int,
    gated: bool,
) -> tuple[Linear, ...]:
    """The linear layers of a block, in the order they are computed.

    attention: the widths of queries and of keys, all heads together.
    """
    flag, (wide, shared) = settings.flag, attention
    linears = [
        Linear(family.query, width, wide, flag(family.query_bias), "query"),
        Linear(family.key, width, shared, flag(family.key_bias), "key"),
        Linear(family.value, width, shared, flag(family.value_bias), "value"),
    ]
    if family.fused is not None:
        outputs = sum(linear.outputs for linear in linears)
        linears = [Linear(family.fused, width, outputs, flag(family.query_bias), "fused")]
    linears.append(Linear(family.output, wide, width, flag(family.output_bias), "output"))
    bias = flag(family.mlp_bias)
    ups, down = (family.gated_up, family.gated_down) if gated else ((family.up,), family.down)
    raised = 2 * mlp // len(ups) if gated else mlp
    linears += [Linear(path, width, raised, bias, "up") for path in ups]
    return (*linears, Linear(down, mlp, width, bias, "down"))


def _relative(settings: Settings, width: int) -> Relative | None:
    if not settings.get("relative_attention"):
        return None
    buckets = int(settings.get("position_buckets") or -1)
    span = int(settings.get("max_relative_positions") or -1)
    if span < 1:
        span = settings.number("max_position_embeddings")
    kinds = settings.get("pos_att_type") or []
    if isinstance(kinds, str):
        kinds = [kind.strip() for kind in kinds.lower().split("|")]
    kernel = int(settings.get("conv_kernel_size") or 0)
    conv = kernel * width * (width // int(settings.get("conv_groups") or 1)) + 3 * width
    return Relative(
        rows=2 * (buckets if buckets > 0 else span),
        to_position="c2p" in kinds,
        to_content="p2c" in kinds,
        shared=bool(settings.get("share_att_key")),
        norm="layer_norm" in str(settings.get("norm_rel_ebd") or "none").lower(),
        conv=conv if kernel > 0 else 0,
        kernel=max(kernel, 0),
    )


def _activation(family: Family, settings: Settings) -> Activation:
    head = family.head
    named = settings.get(head.activation_key) if head.activation_key else None
    if named is None:
        return head.activation
    for known in ACTIVATIONS:
        if named == known:
            return known
    raise ValueError(f"{head.activation_key} {named!r} is none of {', '.join(ACTIVATIONS)}")


def _check_length(family: Family, settings: Settings, model: Model, rows: int) -> None:
    """Raise ModelError when the model has fewer positions than the job's texts may need."""
    # RoBERTa counts positions from the padding token's id on.
    room = rows - settings.number("pad_token_id") - 1 if family.positions_from_pad else rows
    if model.max_tokens > room:
        raise ModelError(
            f"model.max_tokens: {model.max_tokens} is more than the {room} positions of "
            f"{model.path}: take up to {room}"
        )


def _side(value: Any, field: str) -> int:
    """The side of a square given as one number or two equal ones."""
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise ValueError(f"{field} {value} is not square")
    side = int(sides.pop())
    if not 1 <= side <= MOST_PIXELS:
        raise ValueError(f"{field} is not within 1 and {MOST_PIXELS} pixels")
    return side


def _image_size(settings: Settings, model: Model, patch: int) -> int:
    """The side in pixels of the images the job feeds."""
    if model.image_size is None:
        own = _side(settings.get("image_size"), "image_size")
        fit = checkpoint_fit(model.path)  # DINOv2's config.json says 518 pixels, read at 224
        return own if fit is None or fit.side % patch else fit.side
    if model.image_size % patch:
        below = model.image_size // patch * patch
        choices = f"{below} or {below + patch}" if below else f"{patch}"
        raise ModelError(
            f"model.image_size: {model.image_size} is not a multiple of the patch, {patch} pixels: "
            f"take {choices}"
        )
    return model.image_size
