"""The codecs that a survey of cuts encodes with: plain ones, or one fitted to each cut."""

from collections.abc import Mapping

import torch

from cutlayer.data.dataset import Dataset
from cutlayer.job import Job
from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.lora import Adapter
from cutlayer.seeds import derive
from cutlayer.train.crossed import crossed
from cutlayer.train.read_conditions import patches_a_side
from cutlayer.train.sensitivity import Sensitivity
from cutlayer.wire.codecs.klt import KltCodec
from cutlayer.wire.codecs.klt_fit import KltSettings, fit_basis
from cutlayer.wire.codecs.quantized import QuantizedCodec
from cutlayer.wire.codecs.seam import Codec
from cutlayer.wire.messages import ActivationsMessage

FIT_SAMPLES = 64
"""How many samples a basis is fitted to: at least as many as in a run."""

Fitted = Mapping[int, KltCodec]
"""The fitted codec of each cut."""


def fit_codecs(
    job: Job,
    model: CutModel,
    preprocess: Preprocessor,
    adapter: Adapter,
    cuts: tuple[int, ...],
    finest: float,
    data: Dataset,
) -> Fitted:
    """A codec for each cut, fitted to all tokens of the samples `data` at `finest` bits a value.

    Empty if the codec of the job's uplink is not a fitted one.
    """
    if job.method.uplink.codec != "klt":
        return {}
    spec, found = model.spec, {}
    few = data.subset(range(min(FIT_SAMPLES, len(data))))
    inputs, labels = preprocess(few.inputs), torch.from_numpy(few.labels)
    for cut in cuts:
        given = model.device_forward(inputs, cut, [Segment(adapter, len(few))], None)
        message = ActivationsMessage(
            0, 0, 0, given.hidden.float(), given.mask, labels, len(data.classes)
        )
        settings = KltSettings(
            spec.prefix,
            rate_bits=finest,
            scaled=spec.modality == "text",
            patches_a_side=patches_a_side(job, spec, cut),
        )
        sent, metric = crossed(message, spec.prefix, None), None
        if job.method.uplink.weighting:
            metric = Sensitivity(job, model, lambda: adapter)(cut, [sent])
        found[cut] = KltCodec(fit_basis([sent.rows], settings, metric=metric))
    return found


def codec_at(job: Job, fitted: Fitted, cut: int, bits: float, finest: float) -> Codec:
    """The codec for a cut and a number of bits a value; 32 bits send whole floats."""
    if cut in fitted and bits < 32:
        return fitted[cut].coarser(bits / finest)
    plain = job.method.uplink.model_copy(update={"codec": "quantize", "bits": int(bits)})
    return QuantizedCodec(plain, derive(job.seed, "rotation"))
