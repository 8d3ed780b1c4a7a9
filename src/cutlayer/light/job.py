"""The part of a job that a light device gets: plain values, bounded and checked when read."""

import codecs
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cutlayer.errors import RefusedError
from cutlayer.resize import Fit
from cutlayer.settings.precision import Precision

_Count = Annotated[int, Meta(ge=1, le=2**20)]
_Text = Annotated[str, Meta(max_length=512)]
_RateBits = Annotated[float, Meta(ge=0.01, le=8)]
_Side = Annotated[int, Meta(ge=1, le=4096)]


class _Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Images(_Plain, frozen=True):
    """How images are resized and cropped for the model (see `resize.Fit`), and its channels."""

    side: _Side
    edge: _Side
    keep_aspect: bool
    kernel: Literal["nearest-exact", "bilinear", "bicubic"]
    channels: Literal[1, 3]

    @property
    def fit(self) -> Fit:
        """The same as a Fit."""
        return Fit(self.side, self.edge, self.keep_aspect, self.kernel)


class Texts(_Plain, frozen=True):
    """How a text becomes token ids, by the tokenizer's file; max_tokens: the most of a text."""

    max_tokens: Annotated[int, Meta(ge=2, le=2**16)]


class Files(_Plain, frozen=True):
    """How the device's own files are read, by the fields of `settings.Data` with these names.

    path, test_path: set on the device; the server sends none.
    """

    kind: Literal["auto", "labelled", "passages"] = "auto"
    input_column: _Text | None = None
    completion_column: _Text | None = None
    separator: _Text = "\n"
    label_column: _Text = "label"
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] | None = None
    encoding: _Text | None = None
    quotes: Literal["auto", "doubled", "plain"] = "auto"
    path: _Text | None = None
    test_path: None = None


class Uplink(_Plain, frozen=True):
    """How activations become bytes, by the fields of `settings.Quantizer` with these names.

    compress: with zstandard. reuse: samples that the server holds are only named. finest_rate_bits:
    bits a value for which a basis is fitted. rate_bits: bits a value that a device sends with it if
    no others are decided.
    """

    codec: Literal["quantize", "klt"]
    levels: Literal["uniform", "gaussian"]
    per: Literal["token", "tensor"]
    rotate: bool
    compress: bool
    reuse: bool
    rate_bits: _RateBits
    finest_rate_bits: _RateBits


class LightJob(_Plain, frozen=True):
    """The part of a job that a light device needs.

    prefix: tokens of a sample that are always kept. candidates: the number of tokens of an image
    from which the selection chooses. merges: tokens left out are merged into one. shares_labels:
    the device shares how many samples of each class it has, with Laplace noise of 1 / label_epsilon
    (None: without noise). files: how its own files are read.
    """

    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    batch_size: _Count
    local_epochs: _Count
    prefix: Annotated[int, Meta(ge=0, le=4096)]
    candidates: Annotated[int, Meta(ge=0, le=2**20)]
    width: Annotated[int, Meta(ge=1, le=2**16)]
    uplink: Uplink
    merges: bool
    precision: Precision
    images: Images | None = None
    texts: Texts | None = None
    shares_labels: bool = False
    label_epsilon: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    files: Files = Files()

    @property
    def is_text(self) -> bool:
        """Whether the model reads texts."""
        return self.texts is not None

    def check(self) -> None:
        """Raise RefusedError for fields that are valid alone but not together."""
        if (self.images is None) == (self.texts is None):
            raise RefusedError(
                "task: the server's job reads neither images nor texts, or both: run the same "
                "cutlayer on both sides"
            )
        if self.images is not None and self.images.edge < self.images.side:
            raise RefusedError(
                f"task: the server cuts images of {self.images.side} pixels out of "
                f"{self.images.edge}: run the same cutlayer on both sides"
            )
        if self.files.path is not None:
            raise RefusedError(
                "task: the server names a path on this device: run the same cutlayer on both sides"
            )
        try:
            codecs.lookup(self.files.encoding or "utf-8")
        except (LookupError, ValueError):
            raise RefusedError(
                f"task: this device does not know the encoding {self.files.encoding!r}: name one "
                "of Python's in data.encoding on the server"
            ) from None
