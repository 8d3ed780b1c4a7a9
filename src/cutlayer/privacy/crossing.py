"""What the server receives of images: through the device part, token selection, noise and codec.

Shapes: n images, T tokens, T' of them sent, D width, N tokens besides the prefix.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cutlayer.data.dataset import Dataset
from cutlayer.job import Job
from cutlayer.model.cut import Activations, CutModel, Segment
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter
from cutlayer.planning.calibration.survey_codecs import Fitted, codec_at
from cutlayer.seeds import torch_rng
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.noise import with_activation_noise
from cutlayer.train.shortened import Shortened, shorten
from cutlayer.wire.codec import decode_activations, encode_activations_with
from cutlayer.wire.messages import ActivationsMessage

_BATCH = 32


@dataclass(frozen=True, eq=False)
class Received:
    """Activations as the server has them: hidden [n, T', D] on the CPU.

    kept: [n, K] where the tokens after the prefix stood, None where the frame does not say. bytes:
    of all frames.
    """

    hidden: Tensor
    kept: Tensor | None
    bytes: int


@dataclass(frozen=True, eq=False)
class Victim:
    """A device part to attack: a job's model with an adapter, and codecs fitted to it by cut.

    finest: the rate that these are fitted at. classes: of the data.
    """

    job: Job
    model: CutModel
    preprocess: Preprocessor
    adapter: Adapter
    fitted: Fitted
    finest: float
    classes: int

    @torch.no_grad()
    def activations(self, data: Dataset, cut: int) -> Activations:
        """Of all samples, at a cut, with the scores of tokens from cut 1 on."""
        hidden, scores = [], []
        score = self.job.method.tokens.score if cut else None
        for start in range(0, len(data), _BATCH):
            part = data.subset(range(start, min(start + _BATCH, len(data))))
            route = [Segment(self.adapter, len(part))]
            given = self.model.device_forward(self.preprocess(part.inputs), cut, route, score)
            hidden.append(given.hidden.float())
            if given.scores is not None:
                scores.append(given.scores)
        return Activations(torch.cat(hidden), None, torch.cat(scores) if scores else None)

    def shorten(self, given: Activations, keep: int) -> Shortened:
        """Of these activations so many tokens, as the job's device chooses them."""
        tokens = self.job.method.tokens.model_copy(update={"keep": keep})
        return shorten(given, tokens, self.model.spec.prefix)

    def send(
        self,
        sent: Shortened,
        labels: Tensor,
        device: int,
        cut: int,
        keep: int,
        bits: Sequence[float],
    ) -> Iterator[Received]:
        """What arrives of them at each number of bits, with the job's noise of a device on them."""
        size = self.job.training.batch_size
        noisy = with_activation_noise(sent.hidden, self.job, device, range(len(sent.hidden)))
        whole = Shortened(noisy, None, sent.places)
        sizes = [min(size, len(noisy) - start) for start in range(0, len(noisy), size)]
        every = sent.places is None
        parts, tags = whole.split(sizes), torch.split(labels, sizes)
        for width in bits:
            codec = codec_at(self.job, self.fitted, cut, width, self.finest)
            arrived, places, total = [], [], 0
            for number, (part, tag) in enumerate(zip(parts, tags, strict=True)):
                message = ActivationsMessage(
                    device, 0, number, part.hidden, None, tag, self.classes, part.places
                )
                rng = torch_rng(self.job.seed, "audit", device, cut, keep, number)
                (frame,) = encode_activations_with(codec, [message], [rng])
                total += len(frame)
                most = frame_limit(self.model, len(part.hidden))
                back = decode_activations(frame, codec=self.fitted.get(cut), max_bytes=most)
                arrived.append(back.hidden.float().cpu())
                if back.places is not None:
                    places.append(back.places.kept)
            yield Received(
                torch.cat(arrived),
                torch.cat(places) if places else (self.places(sent) if every else None),
                total,
            )

    def places(self, sent: Shortened) -> Tensor:
        """Where the tokens [n, K] behind the prefix stood, as whoever sends them knows."""
        if sent.places is not None:
            return sent.places.kept.cpu()
        return torch.arange(self.model.spec.patches).expand(len(sent.hidden), -1)
