"""All attacks on what crosses, over a grid of cuts, tokens and bits.

Tables are [cuts, tokens, bits], NaN where tokens cannot be ranked. Images are [n, C, R, R], 0 to 1.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cutlayer.data.dataset import Dataset
from cutlayer.errors import JobError
from cutlayer.model.inputs import Preprocessor
from cutlayer.planning.calibration.survey_result import Floats, Grid
from cutlayer.planning.leakage.record import GradientLabels, Likeness
from cutlayer.privacy.anchors import BLURRED, LABEL_ONLY, blurred, by_label
from cutlayer.privacy.crossing import Received, Victim
from cutlayer.privacy.decoder import patch_pixels, reconstruct
from cutlayer.privacy.fisher import information
from cutlayer.privacy.gradient_labels import tell_labels
from cutlayer.privacy.inversion import invert
from cutlayer.privacy.likeness import (
    likeness,
    matched,
    psnr_db,
    reidentified,
    structural_similarity,
)
from cutlayer.resize import fitted

Progress = Callable[[str, int, int], None]
Cell = tuple[int, int, int]

TABLES = (
    "psnr_db",
    "ssim",
    "reidentified",
    "matched",
    "inverted_psnr_db",
    "inverted_reidentified",
    "bytes_per_sample",
)
PROBES, PROBED = 4, 4
"""Random directions, and images, by which Fisher information is estimated."""


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    public: images that decoders are trained on, None for all that are left. attacked: images to be
    made again. decoder_steps: of training a decoder, for each cell of the grid. inversion_steps: of
    descending on pixels (0: not tried), for `inverted` of the images attacked. Raises JobError for
    fewer than none.
    """

    public: int | None = None
    attacked: int = 64
    decoder_steps: int = 100
    inversion_steps: int = 20
    inverted: int = 4

    def __post_init__(self) -> None:
        if min(self.decoder_steps, self.inversion_steps) < 0 or self.inverted < 1:
            raise JobError(
                f"effort: {self.decoder_steps} and {self.inversion_steps} steps and "
                f"{self.inverted} images cannot be tried: take 0 steps or more, and 1 image or more"
            )


@dataclass(frozen=True, eq=False)
class Found:
    """The tables by name, what tells labels by cut, the anchors, and the images made.

    original: of those attacked; pictures: by cell, and anchors by name.
    """

    tables: dict[str, Floats]
    gradient_labels: dict[int, GradientLabels]
    anchors: dict[str, Likeness]
    original: Tensor
    anchor_pictures: dict[str, Tensor]
    pictures: dict[Cell, Tensor] = field(default_factory=dict)


def attack(
    victim: Victim,
    grid: Grid,
    public: Dataset,
    attacked: Dataset,
    effort: Effort,
    gradients: bool,
    progress: Progress,
) -> Found:
    """Attack everything. gradients: whether any leave the server, or a tail."""
    spec = victim.model.spec
    side = patch_pixels(spec.patches, spec.patch_size) * round(spec.patches**0.5)
    images, original = (seen(victim.preprocess, _pixels(one), side) for one in (public, attacked))
    found = _empty(victim, grid, public, attacked, images, original)
    several = [list(_cells(grid, cut)) for cut in range(len(grid.cuts))]
    steps, done = sum(len(cells) for cells in several), itertools.count()
    for c, cut in enumerate(grid.cuts):
        given = [victim.activations(one, cut) for one in (public, attacked)]
        for k in sorted({k for k, _ in several[c]}):
            keep = grid.tokens[k]
            short = [victim.shorten(one, keep) for one in given]
            # As if of two devices, so that no image shares its noise with another.
            labels = [torch.from_numpy(one.labels) for one in (public, attacked)]
            sent = (
                victim.send(one, labels[device], device, cut, keep, grid.bits)
                for device, one in enumerate(short)
            )
            arrived = zip(*sent, strict=True)
            places, received = victim.places(short[0]), []
            for q, (own, other) in enumerate(arrived):
                progress("training decoders", next(done), steps)
                made = reconstruct(
                    own, places, images, other, spec.patches, spec.prefix, effort.decoder_steps,
                    victim.job.seed,
                )  # fmt: skip
                received.append(other)
                found.pictures[c, k, q] = made
                _note(found, (c, k, q), made, original, other, short[1].hidden, len(attacked))
            if effort.inversion_steps:
                _descend(victim, found, (c, k), received, attacked, effort, cut, keep)
            probed = _pixels(attacked.subset(range(min(PROBED, len(attacked))))) / 255
            terms = information(victim, probed, cut, keep, PROBES)
            for name, value in zip(("information", "size_information"), terms, strict=True):
                found.tables[name][c, k] = value
        if gradients and cut < spec.depth:
            found.gradient_labels[cut] = tell_labels(victim, public, attacked, cut)
    return found


def seen(preprocess: Preprocessor, images: Tensor, side: int) -> Tensor:
    """Images [n, C, H, W] of levels 0 to 255 as the model sees them, with fewer pixels and from 0
    to 1.
    """
    assert preprocess.fit is not None
    whole = fitted(images, preprocess.fit).cpu() / 255
    return F.interpolate(whole, size=(side, side), mode="area")


def _cells(grid: Grid, c: int) -> list[tuple[int, int]]:
    """Which tokens and bits there are at a cut: all tokens where nothing ranks them."""
    last = len(grid.tokens) - 1
    kept = range(len(grid.tokens)) if grid.cuts[c] else [last]
    return [(k, q) for k in kept for q in range(len(grid.bits))]


def _pixels(data: Dataset) -> Tensor:
    inputs = data.inputs
    assert isinstance(inputs, Tensor)
    return inputs.float()


def _empty(
    victim: Victim, grid: Grid, public: Dataset, attacked: Dataset, images: Tensor, original: Tensor
) -> Found:
    """Nothing found yet but the anchors."""
    shape = (len(grid.cuts), len(grid.tokens), len(grid.bits))
    tables = {name: np.full(shape, np.nan) for name in TABLES}
    tables |= {name: np.full(shape[:2], np.nan) for name in ("information", "size_information")}
    anchors = {
        BLURRED: blurred(original),
        LABEL_ONLY: by_label(images, public.labels, attacked.labels),
    }
    alike = {name: likeness(made, original) for name, made in anchors.items()}
    return Found(tables, {}, alike, original, anchors)


def _note(
    found: Found,
    cell: Cell,
    made: Tensor,
    original: Tensor,
    received: Received,
    computed: Tensor,
    samples: int,
) -> None:
    """Write down how like the images are that a decoder made, and what was received."""
    values = {
        "psnr_db": psnr_db(made, original),
        "ssim": structural_similarity(made, original),
        "reidentified": reidentified(made, original),
        "matched": matched(received.hidden, computed.cpu()),
        "bytes_per_sample": received.bytes / samples,
    }
    for name, value in values.items():
        found.tables[name][cell] = value


def _descend(
    victim: Victim,
    found: Found,
    place: tuple[int, int],
    received: list[Received],
    attacked: Dataset,
    effort: Effort,
    cut: int,
    keep: int,
) -> None:
    """Invert a few images at all numbers of bits, in one pass."""
    few = min(effort.inverted, len(attacked))
    start = torch.cat([found.pictures[*place, q][:few] for q in range(len(received))])
    target = torch.cat([one.hidden[:few] for one in received])
    size = attacked.image_shape[1:]
    made = invert(victim, target, start, size, cut, keep, effort.inversion_steps)
    side = found.original.shape[-1]
    for q, one in enumerate(torch.split(seen(victim.preprocess, 255 * made, side), few)):
        original = found.original
        found.tables["inverted_psnr_db"][*place, q] = psnr_db(one, original[:few])
        found.tables["inverted_reidentified"][*place, q] = reidentified(one, original)
