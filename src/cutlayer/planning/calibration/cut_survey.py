"""Sends samples through every cut, number of tokens and bits, and compares the predictions.

Shapes: n samples, C classes, N tokens besides the prefix; tables are [cuts, tokens, bits].
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cutlayer.data.dataset import Dataset
from cutlayer.job import Job
from cutlayer.model.bank import Segment
from cutlayer.model.cut import Activations, Adapter, CutModel
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import fresh_head, with_outputs
from cutlayer.planning.calibration.linear_head import fit_head
from cutlayer.planning.calibration.survey_codecs import codec_at, fit_codecs
from cutlayer.planning.calibration.survey_result import Floats, Grid, SurveyResult
from cutlayer.seeds import derive, torch_rng
from cutlayer.settings.precision import Precision
from cutlayer.train.device_blocks import DeviceBlocks, run_in
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.noise import with_activation_noise
from cutlayer.train.shortened import shorten
from cutlayer.wire.codec import decode_activations, encode_activations_with
from cutlayer.wire.messages import ActivationsMessage

RANGE_BATCH = 16
FIT_BATCH = 32
DIGITS = 12
"""Decimals kept in a record."""


def fit(
    model: CutModel,
    preprocess: Preprocessor,
    data: Dataset,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> Adapter:
    """An adapter that holds only a head, fitted to `data` on the pretrained model's features.

    seed: draws the hidden layer of the head, if the model's family has one.
    """
    fresh = fresh_head(model.spec, derive(seed, "head"))
    head = {key: value.to(model.compute, model.dtype) for key, value in fresh.items()}
    features = []
    for rows, part in _batches(data, FIT_BATCH):
        route = [Segment(head, len(part))]
        features.append(_array(model.features(preprocess(part.inputs), route)))
        progress("fitting a head", rows.stop, len(data))
    weight, bias = fit_head(np.concatenate(features), data.labels, len(data.classes))
    fitted = [torch.from_numpy(x).to(model.compute, model.dtype) for x in (weight, bias)]
    return with_outputs(model.spec, head, *fitted)


@dataclass(frozen=True)
class DevicePart:
    """The model's first blocks as a device computes them: by torch, or by a program.

    blocks: run them in other numbers than float32.
    """

    model: CutModel
    precision: Precision = "float32"
    blocks: DeviceBlocks | None = None

    def forward(
        self, inputs: dict[str, Tensor], cut: int, adapter: Adapter, score: str | None
    ) -> Activations:
        """What one device computes of a batch."""
        size = len(next(iter(inputs.values())))
        if self.precision == "float32":
            return self.model.device_forward(inputs, cut, [Segment(adapter, size)], score)
        scored = score is not None
        return run_in(self.precision, self.blocks, cut, scored, inputs, [size])


class CutSurvey:
    """A model with an adapter, a grid, the samples, and what was measured so far.

    device: computes the first blocks. spare: other samples, to which a codec is fitted if the job's
    codec is a fitted one.
    plain [n, C]: logits without compression; logits [*grid, n, C]: with the settings of each cell
    of the grid. sent [*grid]: bytes of all frames. logits and sent are NaN at cut 0 with fewer than
    all tokens, since no block ranks tokens there.
    scores {cut: [n, N]}: the scores of each sample's tokens, in falling order. squares, low, high
    {cut: [n]}: mean square, least and largest value of a sample's activations.
    """

    def __init__(
        self,
        job: Job,
        device: DevicePart,
        adapter: Adapter,
        grid: Grid,
        data: Dataset,
        spare: Dataset,
    ) -> None:
        model = device.model
        n, classes = len(data), len(data.classes)
        shape = (len(grid.cuts), len(grid.tokens), len(grid.bits))
        # Noise that can be repeated, of the size that the job's has.
        private = job.privacy.model_copy(update={"noise_from": "seed"})
        self.job = job.model_copy(update={"privacy": private})
        self.model, self.device, self.adapter = model, device, adapter
        self.grid, self.data, self.spare = grid, data, spare
        self.finest = max((rate for rate in grid.bits if rate < 32), default=32.0)
        self.cuts = sorted({0, *grid.cuts})
        self.plain = np.empty((n, classes))
        self.logits = np.full((*shape, n, classes), np.nan, dtype=np.float32)
        self.sent = np.zeros(shape)
        if 0 in grid.cuts:
            self.sent[grid.cuts.index(0), :-1] = np.nan
        self.scores = {cut: np.zeros((n, model.spec.patches)) for cut in grid.cuts if cut}
        self.squares, self.low, self.high = ({c: np.empty(n) for c in self.cuts} for _ in range(3))

    def run(
        self, preprocess: Preprocessor, progress: Callable[[str, int, int], None]
    ) -> SurveyResult:
        """Send all samples, in frames of the job's batch size."""
        self.fitted = fit_codecs(
            self.job, self.model, preprocess, self.adapter, self.grid.cuts, self.finest, self.spare
        )
        batches = list(_batches(self.data, self.job.training.batch_size))
        steps = len(batches) * len(self.cuts)
        plain = self.device.precision == "float32"
        stage = "measuring" if plain else f"measuring {self.device.precision}"
        for number, (rows, part) in enumerate(batches):
            inputs = preprocess(part.inputs)
            route = [Segment(self.adapter, len(part))]
            self.plain[rows] = _array(self.model.forward(inputs, route))
            for index, cut in enumerate(self.cuts):
                progress(stage, number * len(self.cuts) + index, steps)
                score = self.job.method.tokens.score if cut else None
                # Cut 0 is only looked at where the grid has it not, and not worth a program.
                device = self.device if cut in self.grid.cuts else DevicePart(self.model)
                given = device.forward(inputs, cut, self.adapter, score)
                self._note(cut, rows, given)
                if cut in self.grid.cuts:
                    self._cross(cut, rows, given, torch.from_numpy(part.labels))
        return self._compare()

    def _note(self, cut: int, rows: slice, given: Activations) -> None:
        """Keep the scores and the sizes of the activations of a batch."""
        hidden, mask = given.hidden.float(), given.mask
        if mask is None:
            mask = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        padding = ~mask[:, :, None]
        count = mask.sum(1) * hidden.shape[2]
        self.squares[cut][rows] = _array(
            hidden.square().masked_fill(padding, 0).sum((1, 2)) / count
        )
        self.low[cut][rows] = _array(hidden.masked_fill(padding, torch.inf).amin((1, 2)))
        self.high[cut][rows] = _array(hidden.masked_fill(padding, -torch.inf).amax((1, 2)))
        if given.scores is not None:
            falling = given.scores.sort(dim=1, descending=True).values
            # A batch of short texts has fewer tokens than the longest text may.
            self.scores[cut][rows, : falling.shape[1]] = _array(falling)

    def _cross(self, cut: int, rows: slice, given: Activations, labels: Tensor) -> None:
        """Send a batch's activations across the cut, by every number of tokens and of bits."""
        place = self.grid.cuts.index(cut)
        for k, keep in enumerate(self.grid.tokens):
            if given.scores is None and keep < self.grid.tokens[-1]:
                continue
            tokens = self.job.method.tokens.model_copy(update={"keep": keep})
            chosen = shorten(given, tokens, self.model.spec.prefix)
            samples = range(rows.start, rows.stop)
            hidden = with_activation_noise(chosen.hidden, self.job, 0, samples)
            message = ActivationsMessage(
                0, 0, 0, hidden, chosen.mask, labels, len(self.data.classes), chosen.places
            )
            crossed, most = [], frame_limit(self.model, len(chosen.hidden))
            for q, bits in enumerate(self.grid.bits):
                codec = codec_at(self.job, self.fitted, cut, bits, self.finest)
                rng = torch_rng(self.job.seed, "calibrate", cut, keep, int(bits), rows.start)
                (frame,) = encode_activations_with(codec, [message], [rng])
                self.sent[place, k, q] += len(frame)
                back = decode_activations(frame, codec=self.fitted.get(cut), max_bytes=most)
                crossed.append(back.hidden)
            whole = keep == self.grid.tokens[-1] and self.device.precision == "float32"
            if whole and not self.job.privacy.activation_noise:
                # Whole floats of all tokens arrive as they were: the cut changes nothing.
                crossed.pop()
                self.logits[place, k, -1, rows] = self.plain[rows]
            if crossed:
                logits = self._finish(crossed, chosen.mask, cut)
                self.logits[place, k, : len(crossed), rows] = logits

    def _finish(self, crossed: Sequence[Tensor], mask: Tensor | None, cut: int) -> Floats:
        """Logits [Q, B, C] of what arrived at Q numbers of bits, in one pass of the server."""
        Q, hidden = len(crossed), torch.cat(list(crossed)).to(self.model.compute, self.model.dtype)
        masks = None if mask is None else mask.to(self.model.compute).repeat(Q, 1)
        route = [Segment(self.adapter, len(hidden))]
        logits = self.model.server_forward(hidden, masks, cut, route)
        return _array(logits.view(Q, len(hidden) // Q, -1))

    def _compare(self) -> SurveyResult:
        n = len(self.data)
        guesses, plain = self.logits.argmax(-1), _log_softmax(self.plain)
        impossible = np.isnan(self.sent)
        divergence = np.full(self.sent.shape, np.nan)
        for cell in zip(*np.nonzero(~impossible), strict=True):
            gap = plain - _log_softmax(self.logits[cell].astype(np.float64))
            divergence[cell] = max(0.0, float((np.exp(plain) * gap).sum(-1).mean()))
        curves = {cut: _cumulative(scores) for cut, scores in self.scores.items()}
        return SurveyResult(
            self.grid.cuts,
            self.grid.tokens,
            self.grid.bits,
            agreement=_short(
                np.where(impossible, np.nan, (guesses == self.plain.argmax(-1)).mean(-1))
            ),
            divergence=_short(divergence),
            accuracy=_short(np.where(impossible, np.nan, (guesses == self.data.labels).mean(-1))),
            bytes_per_sample=_short(self.sent / n),
            importance={cut: _short(curve.mean(0)) for cut, curve in curves.items()},
            importance_low={c: _short(np.percentile(v, 10, 0)) for c, v in curves.items()},
            importance_high={c: _short(np.percentile(v, 90, 0)) for c, v in curves.items()},
            mean_square={c: round(float(self.squares[c].mean()), DIGITS) for c in self.cuts},
            range_16={c: round(self._range(c), DIGITS) for c in self.cuts},
        )

    def _range(self, cut: int) -> float:
        """max - min over RANGE_BATCH samples, the mean over such batches."""
        starts = np.arange(0, len(self.data), RANGE_BATCH)
        high = np.maximum.reduceat(self.high[cut], starts)
        ranges: Floats = high - np.minimum.reduceat(self.low[cut], starts)
        return float(ranges.mean())


def _batches(data: Dataset, size: int) -> Iterator[tuple[slice, Dataset]]:
    for start in range(0, len(data), size):
        stop = min(start + size, len(data))
        yield slice(start, stop), data.subset(np.arange(start, stop))


def _array(x: Tensor) -> Floats:
    values: Floats = x.double().cpu().numpy()
    return values


def _short(values: Floats) -> Floats:
    return np.round(values, DIGITS)


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _cumulative(scores: Floats) -> Floats:
    """The shares [n, N + 1] of a sample's scores that its best 0 ... N tokens hold.

    scores: of n samples, in falling order, [n, N].
    """
    sums = np.concatenate([np.zeros((len(scores), 1)), scores.cumsum(axis=1)], axis=1)
    shares: Floats = sums / sums[:, -1:]
    return shares
