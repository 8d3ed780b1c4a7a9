"""Fit the `klt` codec: means by position, a basis of the channels, a step size and symbol laws.

The Karhunen-Loeve transform (the eigenvectors of the covariance of the channels) is the linear
transform that leaves the fewest bits at one step size for all components. With a metric, the
transform is that of the activations as the part of the model after the cut sees them, and tokens
that matter more (CLS, where the head reads it) are sent more finely.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.errors import RunError
from cutlayer.wire.codecs import laws, spatial
from cutlayer.wire.codecs.basis import MAX_SHIFT, Basis, Components
from cutlayer.wire.codecs.laws import Array
from cutlayer.wire.codecs.seam import Rows
from cutlayer.wire.codecs.token_scale import size_codes, sizes_of
from cutlayer.wire.headers import (
    MAX_WIDTH,
    BasisHeader,
    SpatialBasisHeader,
    TokenBasisHeader,
)
from cutlayer.wire.quantize import finite

_SHRINK = 4
"""With this many samples, a position's own mean weighs as much as the mean of all positions."""
_TOKEN_SHRINK = 0.25
"""As _SHRINK, of a class of tokens: tokens of a class differ by about a quarter of what the means
of classes do (measured on SmolLM2-135M and E2E, after 2 and 8 blocks)."""
_MEAN_UNIT = 1 / 16
"""Means are rounded to this many steps, which costs a hundredth of what rounding the rows costs."""
_PRIOR = 0.1
"""Share of the other tokens' covariance that is mixed into the prefix tokens' covariance."""
_FOLDS = 4
_RIDGE = 0.01
"""Share of a metric's mean that is added in every direction; of the mean over all tokens, this
share again."""
_FINEST, _COARSEST = 2.0**-12, 2.0**6
"""Step sizes tried for a rate, in units of the RMS of the centred rows."""
_HALVINGS = 24
"""Halvings of the interval of step sizes: to a thousandth of a per cent."""
_MAX_POSITIONS = 2**16


@dataclass(frozen=True)
class KltSettings:
    """Settings of a fit.

    prefix: number of first tokens of a sample (CLS, registers, the attention sink of a language
    model) that get means and components of their own. step: the step size; None: the one that
    takes `rate_bits` bits a value under the fitted laws. basis_bits: 8 or 16 bits for each number
    of the basis. scaled: divide each token by its RMS, which is sent in a byte (language models).
    per_batch: divide by the RMS of the whole batch (gradients, whose size falls during training);
    then there are no means by position. unbiased: round with a uniform dither instead of a dead
    zone, and keep every component, so that errors average out. patches_a_side: of the square grid
    that follows the prefix in every sample, whose patches are transformed together; 0: each is sent
    as it is. token_classes: of the known tokens, which then get means and components of their own
    in place of positions and prefix; 0: none are known.
    """

    prefix: int = 0
    step: float | None = None
    rate_bits: float = 0.5
    basis_bits: int = 8
    scaled: bool = False
    per_batch: bool = False
    unbiased: bool = False
    patches_a_side: int = 0
    token_classes: int = 0

    @property
    def apart(self) -> int:
        """Positions, from 0 on, or classes of tokens that have components of their own."""
        return self.token_classes or self.prefix


def fit_basis(
    samples: Sequence[Rows], settings: KltSettings, version: int = 1, metric: Tensor | None = None
) -> Basis:
    """Fit a basis to rows like those that will be sent; a few dozen samples are enough.

    metric: [2, D, D] positive semidefinite, of prefix tokens and of others: E[J^T J] of the model's
    part after the cut, which weighs errors by how much they change its output. Raises RunError for
    rows that are empty, not finite, or wider than 4,096 channels, and ValueError for a grid of
    which patches are missing.
    """
    if settings.patches_a_side and (settings.scaled or settings.per_batch or settings.unbiased):
        raise ValueError(
            "the transform between patches is for whole activations: leave out patches_a_side, or "
            "scaled, per_batch and unbiased"
        )
    if settings.token_classes and (
        settings.patches_a_side or settings.per_batch or settings.unbiased
    ):
        raise ValueError(
            "known tokens are those of whole activations of texts: leave out token_classes, or "
            "patches_a_side, per_batch and unbiased"
        )
    rows, positions = _joined(samples)
    D = rows.shape[1]
    centres, spreads = (128, 128), (1.0, 1.0)
    prefix = (positions >= 0) & (positions < settings.apart)
    if settings.per_batch:
        rows = rows / (float(rows.square().mean().sqrt()) or 1.0)
    if settings.scaled or settings.per_batch:
        codes = size_codes(rows, settings.per_batch)
        centres, spreads = _size_laws(codes, prefix.numpy())
    if settings.scaled:
        rows = rows / torch.from_numpy(sizes_of(codes, octaves=False))[:, None]
    tokens = _Tokens(rows, positions, prefix)
    weights = None if metric is None else _weights(metric, D, float(prefix.double().mean()))
    means, transforms, _ = _fitted(tokens, tokens, settings, weights)
    coefficients = _by_band(_held_out(tokens, settings, weights), settings)
    step = settings.step if settings.step is not None else _step_for(coefficients, settings)
    # Whole frames hold float64; a short number is easier to read and to compare.
    step = float(np.float32(step))
    largest = max(float(t[1].abs().max()) for t in transforms)
    value_bits = 7 if settings.basis_bits == 8 else 15
    log2_unit = int(np.ceil(np.log2(largest))) - value_bits
    groups, token_bits = [], []
    # Large tokens of a gradient are coded as if at a finer step, where all components may matter.
    every = settings.unbiased or settings.per_batch
    kinds = (coefficients[:1], coefficients[1:])
    for bands, (_, synthesis) in zip(kinds, transforms, strict=True):
        reach = np.stack([_reach(band, settings) for band in bands])
        # Weighted vectors are not orthogonal: only all of them together can be inverted.
        whole = every or (weights is not None and len(bands[0]) > 0)
        live = np.ones(D, bool) if whole else (reach >= laws.FIRST * step).any(0)
        fitted = [_laws(band, step, settings) for band in bands]
        scales = np.stack([one for one, _ in fitted])
        order = np.flatnonzero(live)
        order = order[np.argsort(-scales[:, order].max(0).astype(int), kind="stable")]
        vectors = _whole_vectors(synthesis.T.numpy()[order], log2_unit, value_bits)
        reaches = laws.to_codes(reach[:, order], step, up=True)
        groups.append(Components(vectors[0], scales[:, order], reaches, vectors[1]))
        token_bits.append(sum(bits for _, bits in fitted) / max(1, sum(map(len, bands))))
    mean_unit = step * _MEAN_UNIT
    head = BasisHeader(
        version=version,
        width=D,
        prefix=settings.apart,
        positions=len(means) - 1,
        prefix_components=groups[0].count,
        other_components=groups[1].count,
        step=step,
        mean_unit=mean_unit,
        log2_unit=log2_unit,
        wide=settings.basis_bits == 16,
        scaled=settings.scaled,
        size_centres=centres,
        size_spreads=spreads,
        token_bits=(token_bits[0], token_bits[1]),
        per_batch=settings.per_batch,
        dithered=settings.unbiased,
    )
    if settings.patches_a_side:
        head = SpatialBasisHeader(**msgspec.structs.asdict(head), side=settings.patches_a_side)
    if settings.token_classes:
        head = TokenBasisHeader(**msgspec.structs.asdict(head), classes=settings.token_classes)
    whole_means = np.clip(np.rint(means.numpy() / mean_unit), -(2**31) + 1, 2**31 - 1)
    return Basis(head, whole_means.astype(np.int32), groups[0], groups[1])


def _by_band(coefficients: list[Array], settings: KltSettings) -> list[Array]:
    """Components of the prefix tokens, and of others those of each band of a grid (one if none)."""
    side = settings.patches_a_side
    if not side:
        return coefficients
    prefix, others = coefficients
    transformed = spatial.forth(torch.from_numpy(others), side).numpy()
    grids = transformed.reshape(-1, side * side, others.shape[1])
    band = spatial.bands(side)
    numbers = range(spatial.count(side))
    return [prefix, *(grids[:, band == k].reshape(-1, others.shape[1]) for k in numbers)]


def _size_laws(
    codes: NDArray[np.uint8], prefix: NDArray[np.bool_]
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Centre and spread of the sizes of prefix tokens and of others."""
    # A kind without any token gets the laws of the other kind.
    kinds = [codes[kind] if kind.any() else codes for kind in (prefix, ~prefix)]
    centres = [int(np.median(kind)) for kind in kinds]
    spreads = [
        float(np.clip(np.abs(kind - float(centre)).mean(), 0.3, 100))
        for kind, centre in zip(kinds, centres, strict=True)
    ]
    return (centres[0], centres[1]), (spreads[0], spreads[1])


def _joined(samples: Sequence[Rows]) -> tuple[Tensor, Tensor]:
    rows = torch.cat([sample.values for sample in samples]) if samples else torch.zeros(0, 1)
    if rows.numel() == 0:
        raise RunError("the codec cannot be fitted without samples: give it a few dozen")
    if rows.shape[1] > MAX_WIDTH:
        raise RunError(
            f"codec klt takes activations of up to {MAX_WIDTH} channels, not {rows.shape[1]}: set "
            "uplink.codec to quantize"
        )
    finite(rows, "activations to fit the codec to")
    return rows.double(), torch.cat([sample.positions for sample in samples])


@dataclass(frozen=True, eq=False)
class _Tokens:
    """rows [n, D], their positions [n], and flags of the prefix tokens [n]."""

    rows: Tensor
    positions: Tensor
    prefix: Tensor

    def take(self, index: Tensor) -> "_Tokens":
        return _Tokens(self.rows[index], self.positions[index], self.prefix[index])


def _held_out(tokens: _Tokens, settings: KltSettings, weights: Tensor | None) -> list[Array]:
    """Components of each kind of tokens, by bases fitted to other samples.

    A basis fits its own rows too well: with few rows, laws fitted to them would expect components
    of new rows to be smaller than they are. So a quarter of the samples is left out at a time.
    """
    number = torch.arange(len(tokens.rows)) * _FOLDS // max(1, len(tokens.rows))
    if settings.patches_a_side:
        number = _whole_samples(tokens, settings)
    found: list[list[Array]] = [[], []]
    for fold in range(_FOLDS):
        rest, left = tokens.take(number != fold), tokens.take(number == fold)
        if len(rest.rows) and len(left.rows):
            for kind, values in zip(found, _fitted(rest, left, settings, weights)[2], strict=True):
                kind.append(values)
    if not found[0]:
        return _fitted(tokens, tokens, settings, weights)[2]
    return [np.concatenate(kind) for kind in found]


def _whole_samples(tokens: _Tokens, settings: KltSettings) -> Tensor:
    """The fold of each row [n], the same for all rows of a sample."""
    each = settings.prefix + settings.patches_a_side**2
    samples, rest = divmod(len(tokens.rows), each)
    if rest or (tokens.positions.reshape(-1, each) != torch.arange(each)).any():
        raise ValueError(
            f"a grid of {settings.patches_a_side} patches a side needs all {each} tokens of each "
            "sample to fit to, in their order: leave out patches_a_side, or none of them"
        )
    return (torch.arange(samples) * _FOLDS // samples).repeat_interleave(each)


def _fitted(
    tokens: _Tokens, others: _Tokens, settings: KltSettings, weights: Tensor | None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]], list[Array]]:
    """Means and transforms of `tokens`, and the components of `others` under them."""
    means = _means(tokens, settings)
    last = len(means) - 1

    def kinds(some: _Tokens) -> list[Tensor]:
        index = torch.where((some.positions < 0) | (some.positions > last), last, some.positions)
        centred = some.rows - means[index]
        return [centred[some.prefix], centred[~some.prefix]]

    own = kinds(tokens)
    covariances = [rows.T @ rows / max(1, len(rows)) for rows in own]
    # There are few prefix tokens: directions that they leave open come from the other tokens.
    traces = [float(covariance.trace()) for covariance in covariances]
    if traces[1] > 0:
        covariances[0] = covariances[0] + _PRIOR * traces[0] / traces[1] * covariances[1]
    transforms = [
        _transform(covariance, None if weights is None else weights[kind])
        for kind, covariance in enumerate(covariances)
    ]
    components = [
        (rows @ analysis).numpy()
        for rows, (analysis, _) in zip(kinds(others), transforms, strict=True)
    ]
    return means, transforms, components


def _means(tokens: _Tokens, settings: KltSettings) -> Tensor:
    """The mean at each position and that of all others [P + 1, D].

    The mean of a position that few samples have is drawn towards the mean of all.
    """
    rows, positions, prefix = tokens.rows, tokens.positions, tokens.prefix
    D = rows.shape[1]
    if settings.per_batch:
        return torch.zeros(1, D, dtype=rows.dtype)
    if settings.token_classes:
        return _token_means(tokens, settings.token_classes)
    P = min(int(positions.max()) + 1, _MAX_POSITIONS)
    others = rows[~prefix] if (~prefix).any() else rows
    overall = others.mean(0)
    known = (positions >= 0) & (positions < P)
    counts = torch.bincount(positions[known], minlength=P).double()[:, None]
    sums = torch.zeros(P, D, dtype=rows.dtype).index_add_(0, positions[known], rows[known])
    # Prefix tokens are unlike the others, so their means are not drawn towards the mean of all.
    weight = torch.full((P, 1), float(_SHRINK), dtype=rows.dtype)
    weight[: settings.prefix] = 1e-9
    return torch.cat([(sums + weight * overall) / (counts + weight), overall[None]])


def _token_means(tokens: _Tokens, classes: int) -> Tensor:
    """The mean of each class of known tokens and that of all unknown tokens [classes + 1, D]."""
    known, unknown = tokens.rows[tokens.prefix], tokens.rows[~tokens.prefix]
    classed = tokens.positions[tokens.prefix]
    means = [some.mean(0) if len(some) else tokens.rows.mean(0) for some in (known, unknown)]
    counts = torch.bincount(classed, minlength=classes).double()[:, None]
    sums = torch.zeros(classes, tokens.rows.shape[1], dtype=tokens.rows.dtype)
    sums.index_add_(0, classed, known)
    own = (sums + _TOKEN_SHRINK * means[0]) / (counts + _TOKEN_SHRINK)
    return torch.cat([own, means[1][None]])


def _weights(metric: Tensor, D: int, prefix_share: float) -> Tensor:
    """The metric of each kind of tokens [2, D, D], on average over tokens and channels 1.

    prefix_share: of the tokens that are prefix tokens.
    """
    given = metric.detach().to("cpu", torch.float64)
    if prefix_share in (0, 1):
        # The vectors of both kinds have one unit: those of a kind without tokens must not be long.
        given = given[[1 - int(prefix_share)] * 2]
    means = given.diagonal(dim1=-2, dim2=-1).mean(-1)
    shares = torch.tensor([prefix_share, 1 - prefix_share], dtype=torch.float64)
    if given.shape != (2, D, D) or not given.isfinite().all() or not (means * shares).sum() > 0:
        raise ValueError(f"the metric must be [2, {D}, {D}], positive semidefinite and not zero")
    overall = (means * shares).sum()
    ridges = _RIDGE * (means + _RIDGE * overall)
    ridge = ridges[:, None, None] * torch.eye(D, dtype=torch.float64)
    return ((given + given.mT) / 2 + ridge) / overall


def _transform(covariance: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Analysis [D, D] (rows @ analysis are the components) and synthesis [D, D] (columns).

    weight: see `_weights`.
    """
    if weight is None:
        vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)
        return vectors, vectors
    values, axes = torch.linalg.eigh(weight)
    # Rounding may leave a value below the ridge, even below 0.
    values = values.clamp(min=float(values[-1]) * 1e-9)
    root = (axes * values.sqrt()) @ axes.T
    back = (axes / values.sqrt()) @ axes.T
    vectors = torch.linalg.eigh(root @ covariance @ root).eigenvectors.flip(1)
    return root @ vectors, back @ vectors


def _step_for(coefficients: Sequence[Array], settings: KltSettings) -> float:
    """The step size at which the rows that the laws are fitted to take `rate_bits` bits a value."""
    rows = sum(len(kind) for kind in coefficients)
    values = sum(kind.size for kind in coefficients)
    energy = sum(float(np.square(kind).sum()) for kind in coefficients)
    rms = (energy / values) ** 0.5 or 1.0
    # The size of each token is sent too, in about half a byte.
    sized = settings.scaled or settings.per_batch
    target = settings.rate_bits * values - (4.0 * rows if sized else 0.0)
    low, high = rms * _FINEST, rms * _COARSEST
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        bits = sum(_laws(kind, middle, settings)[1] for kind in coefficients)
        low, high = (middle, high) if bits > target else (low, middle)
    return high


def _laws(coefficients: Array, step: float, settings: KltSettings) -> tuple[laws.Codes, float]:
    """The scale of each component, in steps, and the bits that all rows take."""
    if len(coefficients) == 0:
        return np.zeros(coefficients.shape[1], np.uint8), 0.0
    if not settings.per_batch:
        return laws.fit_scales([(1.0, coefficients)], step, settings.unbiased)
    sizes = _token_sizes(coefficients)
    groups = [(float(size), coefficients[sizes == size]) for size in np.unique(sizes)]
    return laws.fit_scales(groups, step, settings.unbiased)


def _token_sizes(coefficients: Array) -> Array:
    """The size of each token [n] of a gradient, in whole octaves."""
    return sizes_of(size_codes(torch.from_numpy(coefficients), octaves=True), octaves=True)


def _reach(coefficients: Array, settings: KltSettings) -> Array:
    """The largest magnitude of each component; of a gradient, in units of the token's size."""
    if settings.per_batch:
        coefficients = coefficients / _token_sizes(coefficients)[:, None]
    largest: Array = np.abs(coefficients).max(0, initial=0.0)
    return largest


def _whole_vectors(
    vectors: Array, log2_unit: int, value_bits: int
) -> tuple[laws.Codes, NDArray[np.int16]]:
    """Shifts [L] and vectors [L, D] as whole numbers, each shifted up as far as it has room."""
    top = np.abs(vectors).max(1, initial=0.0)
    limit = 2.0**value_bits - 1
    with np.errstate(divide="ignore"):
        room = np.floor(np.log2(limit / (top / 2.0**log2_unit)))
    shifts = np.clip(room, 0, MAX_SHIFT).astype(np.uint8)
    whole = np.rint(np.ldexp(vectors / 2.0**log2_unit, shifts[:, None]))
    return shifts, np.clip(whole, -limit, limit).astype(np.int16)
