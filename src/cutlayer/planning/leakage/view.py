"""An audit as a table and sentences: on the command line, in reports and in notebooks alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.drawing.tables import Column

if TYPE_CHECKING:
    from cutlayer.planning.leakage.record import Leakage

COLUMNS = (
    Column("cut", "cut", "text"),
    Column("tokens", "tokens", "count"),
    Column("bits", "bits"),
    Column("kilobytes", "a sample (kB)"),
    Column("psnr_db", "PSNR (dB)"),
    Column("ssim", "SSIM"),
    Column("reidentified", "re-identified", "percent"),
    Column("matched", "matched", "percent"),
    Column("inverted_psnr_db", "PSNR by descent (dB)"),
    Column("inverted_reidentified", "the same by descent", "percent"),
)
_OF_CELLS = COLUMNS[4:]


def columns(found: Leakage) -> tuple[Column, ...]:
    """The columns of a table: descent where it was tried, a bound where there is one."""
    shown = COLUMNS if found.inversion_steps else COLUMNS[:-2]
    return (*shown, Column("bound_psnr_db", "bound (dB)")) if found.noise else shown


def rows(found: Leakage) -> list[dict[str, Any]]:
    """A row for each cell of the grid that there is, then one for each anchor."""
    bound, table = found.bound_psnr_db(), []
    for c, k, q in np.argwhere(~np.isnan(found.psnr_db)).tolist():
        values = {one.key: float(getattr(found, one.key)[c, k, q]) for one in _OF_CELLS}
        table.append(
            {
                "cut": str(found.cuts[c]),
                "tokens": found.tokens[k],
                "bits": found.bits[q],
                "kilobytes": found.bytes_per_sample[c, k, q] / 1e3,
                **values,
                "bound_psnr_db": None if bound is None else float(bound[c, k]),
            }
        )
    for name, anchor in found.anchors.items():
        table.append(
            {
                "cut": name,
                "psnr_db": anchor.psnr_db,
                "ssim": anchor.ssim,
                "reidentified": anchor.reidentified,
            }
        )
    table.append({"cut": "drawing lots", "reidentified": found.chance})
    return table


def sentences(found: Leakage) -> list[str]:
    """What was measured on what, and what is no table."""
    said = [
        f"{found.attacked} images attacked, by decoders trained for {found.decoder_steps} steps on "
        f"{found.public} others, compared at {found.pixels} x {found.pixels} pixels"
        + (
            f"; {found.inverted} by {found.inversion_steps} steps of descent on their pixels"
            if found.inversion_steps
            else ""
        )
    ]
    if np.isnan(found.ssim).all():
        said.append("SSIM was not measured: pip install 'cutlayer[audit]'")
    if found.noise:
        said.append(
            f"with noise of {found.noise:g} on activations (privacy.activation_noise); bound: the "
            "largest mean PSNR of any unbiased attack on the values sent (arXiv 2305.04146)"
        )
    else:
        said.append("without privacy.activation_noise there is no bound that needs no attack")
    for cut, told in found.gradient_labels.items():
        said.append(
            f"labels by gradients at cut {cut}: AUC {told.norm:.3f} by length, "
            f"{told.direction:.3f} by direction (0.5 is chance)"
        )
    if found.members is not None:
        one = found.members
        said.append(
            f"members by the adapter's loss: {100 * one.caught:.1f} % of {one.members:,} found at "
            f"1 % false alarms, AUC {one.auc:.3f} (chance: 1 %, 0.5)"
        )
    return said
