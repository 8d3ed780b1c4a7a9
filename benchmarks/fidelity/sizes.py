"""Table II of ST-SFLora: model, adapter and tokens in MiB, by the cost model and on the wire."""

from typing import Any

import torch
from benchmarks.fidelity.page import Claim, Section, table
from benchmarks.fidelity.setting import BATCH, CUT, vit

from cutlayer.model import cost
from cutlayer.settings.method import Quantizer, Tokens
from cutlayer.wire.codec import encode_activations
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.tokens import select

MIB = 2.0**20
RANK = 16
CLASSES = 100
WHOLE_MB = 335.3
"""Of the paper's whole model."""
PLAIN = Quantizer(bits=32, entropy="none")


def section() -> Section:
    """Computed from the configuration alone; the token column is also really encoded."""
    spec = vit("ViT-B/16")
    device, whole = cost.device_cost(spec, CUT), cost.whole_cost(spec)
    mib = cost.FLOAT_BYTES / MIB
    width, hidden = spec.width, spec.mlp_width
    mlp = 2 * cost.lora_parameters(width, hidden, RANK)
    fused = cost.lora_parameters(width, 3 * width, RANK) + mlp
    apart = 3 * cost.lora_parameters(width, width, RANK) + mlp
    head = (width + 1) * CLASSES
    bare, headed = ((whole.parameters + 12 * fused + more) * mib for more in (0, head))
    # What stands in the table's model column counts LoRA in.
    claims = (
        Claim(
            "model on the device, split",
            "58.2 MB",
            f"{(device.parameters + CUT * fused) * mib:.2f} MiB",
            "embedding, 2 blocks and their LoRA; the paper's MB are MiB",
        ),
        Claim(
            "LoRA on the device, split",
            "1.3 MB",
            f"{CUT * fused * mib:.2f} MiB",
            "one A for the fused q, k, v (172,032 numbers a block); three layers with an A each, "
            f"as Hugging Face's ViT has them, take {CUT * apart * mib:.2f}",
        ),
        Claim(
            "LoRA of the whole model",
            "7.9 MB",
            f"{12 * fused * mib:.2f} MiB",
            f"as above; with three layers {12 * apart * mib:.2f}",
        ),
        Claim(
            "whole model",
            f"{WHOLE_MB} MB",
            f"{bare:.2f} MiB without a head, {headed:.2f} with one of {CLASSES} classes",
            f"the paper's number {'lies between' if bare < WHOLE_MB < headed else 'is neither of'} "
            "the two; its head is not described",
        ),
    )
    return Section(
        "Table II: what a device holds and sends",
        f"ViT-B/16 with {CUT} blocks on the device and LoRA of rank {RANK} on qkv, fc1 and fc2, "
        f"the reading of the table that gives its digits; batch {BATCH}, float32. Computed from "
        "the configuration; no weights are loaded.",
        claims,
        _frames(spec.patches, width),
    )


def _frames(patches: int, width: int) -> str:
    rows: list[dict[str, Any]] = []
    for keep in (None, 128, 64, 16):
        sent = patches if keep is None else keep + 2
        frame = _frame_bytes(patches, width, keep)
        body = BATCH * (patches + 1 if keep is None else sent) * width * 4
        rows.append(
            {
                "tokens": "all" if keep is None else keep,
                "formula": f"3 x {sent} / 16 = {3 * sent / 16:.4f}",
                "model": f"{body / MIB:.4f}",
                "frame": f"{frame / MIB:.4f}",
                "rest": frame - body,
            }
        )
    columns = (
        ("tokens", "tokens kept", "text"),
        ("formula", "paper's formula (MiB)", "text"),
        ("model", "float32 values that cross (MiB)", "text"),
        ("frame", "encoded frame (MiB)", "text"),
        ("rest", "labels and headers (bytes)", "count"),
    )
    return (
        "The token column: 3N/16 and 3(K+2)/16 MiB a batch. Frames are encoded by "
        "`cutlayer.wire` from activations of that shape. With all tokens the paper counts the N "
        "patches; the CLS token crosses as well, so the frame is one token in 197 longer.\n\n"
        + table(rows, *columns)
    )


def _frame_bytes(patches: int, width: int, keep: int | None) -> int:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(BATCH, patches + 1, width, generator=rng)
    scores = torch.rand(BATCH, patches, generator=rng)
    chosen = select(hidden, scores, 1, Tokens(keep=keep, rest="merge"))
    labels = torch.randint(CLASSES, (BATCH,), generator=rng)
    message = ActivationsMessage(0, 0, 0, chosen.hidden, chosen.mask, labels, CLASSES)
    return len(encode_activations(message, PLAIN))
