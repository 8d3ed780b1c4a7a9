"""Turns samples of a data set into what a model reads: normalised pixels or token ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cutlayer.errors import ModelError
from cutlayer.model.files import BESIDE, VOCABULARIES, find_file, read_json
from cutlayer.model.framing import fit_for
from cutlayer.model.passage_tokens import padded
from cutlayer.model.spec import ModelSpec
from cutlayer.passage import Passage
from cutlayer.resize import fitted

# Weights of red, green and blue in grey: luma of ITU-R BT.601, as in Pillow.
LUMA = (0.299, 0.587, 0.114)


_CHECKED = 256
"""How many texts are checked at a time."""


class Preprocessor:
    """Prepares samples for the model of `spec`.

    Images: uint8 [B,C,H,W], resized and cropped to the model's square as model.aspect and the
    checkpoint's preprocessor_config.json say (`fit`), turned from grey to RGB or back where the
    model needs it, normalised by that file or else by the family's mean and deviation.
    Texts: a list of strings, by the checkpoint's own tokenizer, padded to the longest of the
    batch and cut at max_tokens. Passages: see `passage_tokens.padded`.
    compute: the torch device that images are resized and normalised on.
    """

    def __init__(self, spec: ModelSpec, compute: torch.device | None = None) -> None:
        self.spec = spec
        self._compute = compute or torch.device("cpu")
        self.fit = fit_for(spec)
        self._tokenizer: Any = None
        if spec.modality == "text":
            self._tokenizer = _tokenizer(spec)
        else:
            scale, shift = normalisation(spec)
            self._scale, self._shift = scale.to(self._compute), shift.to(self._compute)

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, able to pad; None for a model of images."""
        return self._tokenizer

    def __call__(self, inputs: Tensor | list[str] | list[Passage]) -> dict[str, Tensor]:
        """{"pixel_values": float32 [B,C,S,S]} or {"input_ids", "attention_mask": int64 [B,T]}.

        For passages also "answers" int64 [B,T]: 1 where the model is to learn to say the token.
        Raises ModelError when the inputs are of the other modality or cannot be converted.
        """
        if isinstance(inputs, Tensor):
            return {"pixel_values": self._pixels(inputs)}
        if self._tokenizer is None:
            raise ModelError(
                f"model.path: {self.spec.path} reads images but the data holds texts: "
                "take a text model, or a data source of images"
            )
        passages = [one for one in inputs if isinstance(one, Passage)]
        self._check_kind(bool(passages))
        if passages:
            ready = padded(passages, self._tokenizer, self.spec)
            self._check_known(ready["input_ids"])
            return ready
        tokens = self._tokenizer(
            inputs,
            padding="longest",
            truncation=True,
            max_length=self.spec.max_tokens,
            return_tensors="pt",
        )
        self._check_known(tokens["input_ids"])
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def check(self, inputs: Tensor | list[str] | list[Passage]) -> None:
        """Raise ModelError for the first batch of texts that cannot be turned into tokens."""
        for start in range(0, len(inputs), _CHECKED):
            self(inputs[start : start + _CHECKED])

    def _check_kind(self, passages: bool) -> None:
        """Raise ModelError for data of another kind than the model learns from."""
        if passages and not self.spec.parts.language:
            raise ModelError(
                f"model.path: {self.spec.path} tells classes apart but the data holds passages: "
                "take a language model, or data of texts with labels (data.kind labelled)"
            )
        if self.spec.parts.language and not passages:
            raise ModelError(
                f"model.path: {self.spec.path} is a language model but the data holds labelled "
                "texts: take columns prompt and completion, or set data.kind to passages"
            )

    def _check_known(self, ids: Tensor) -> None:
        """Raise ModelError for a token that the model's embedding has no row for."""
        highest = int(ids.max()) if ids.numel() else 0
        if highest >= self.spec.vocabulary:
            raise ModelError(
                f"model.path: the tokenizer of {self.spec.path} gives "
                f"{self._tokenizer.convert_ids_to_tokens(highest)!r} the number {highest}, but the "
                f"model embeds {self.spec.vocabulary} tokens: give the tokenizer that belongs to "
                "the checkpoint, or save it again after model.resize_token_embeddings"
            )

    def _pixels(self, images: Tensor) -> Tensor:
        if self.fit is None:
            raise ModelError(
                f"model.path: {self.spec.path} reads texts but the data holds images: "
                "take an image model, or a data source of texts"
            )
        if self._compute.type == "cuda" and images.device.type == "cpu":
            images = images.pin_memory()  # a quarter of the bytes of what the model reads
        pixels = images.to(self._compute, non_blocking=True).float()
        if pixels.shape[1] != 1:  # grey is resized once, and then becomes as many channels
            pixels = _with_channels(pixels, self.spec.channels)
        # What has the size already was made to fit when it was loaded.
        if tuple(pixels.shape[-2:]) != (self.fit.side, self.fit.side):
            pixels = fitted(pixels, self.fit)
        return _with_channels(pixels, self.spec.channels) * self._scale + self._shift


def _with_channels(pixels: Tensor, channels: int) -> Tensor:
    """pixels [B,C,H,W] with C = `channels`."""
    have = pixels.shape[1]
    if have == channels:
        return pixels
    if have == 1:
        return pixels.expand(-1, channels, -1, -1)
    if have == 3 and channels == 1:
        luma = torch.tensor(LUMA, device=pixels.device)[:, None, None]
        return (pixels * luma).sum(1, keepdim=True)
    raise ModelError(
        f"data: images of {have} channels do not fit a model of {channels}: "
        "convert them to grey or RGB"
    )


def normalisation(spec: ModelSpec) -> tuple[Tensor, Tensor]:
    """scale and shift [C,1,1] that take pixels 0 ... 255 to the range the model was trained on."""
    config = read_json(spec.path, "preprocessor_config.json") or {}
    mean = _per_channel(config.get("image_mean", spec.parts.mean), spec, "image_mean")
    std = _per_channel(config.get("image_std", spec.parts.std), spec, "image_std")
    if config.get("do_normalize") is False:
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    if not bool((std > 0).all()):
        raise ModelError(
            f"model.path: image_std of {spec.path} is not positive: "
            "restore preprocessor_config.json"
        )
    return (1 / (255 * std))[:, None, None], (-mean / std)[:, None, None]


def _per_channel(values: Any, spec: ModelSpec, field: str) -> Tensor:
    """A number for each channel; a grey model with three numbers takes their mean."""
    try:
        numbers = torch.tensor([float(value) for value in values], dtype=torch.float32)
    except (TypeError, ValueError):
        numbers = torch.empty(0)
    if len(numbers) == 3 and spec.channels == 1:
        numbers = numbers.mean(0, keepdim=True)
    if len(numbers) != spec.channels:
        raise ModelError(
            f"model.path: {field} of {spec.path} is {values!r}, not {spec.channels} numbers: "
            "restore preprocessor_config.json"
        )
    return numbers


def tokenizer_file(tokenizer: Any) -> str:
    """A tokenizer as JSON for the package tokenizers, set to pad texts to the longest."""
    from tokenizers import Tokenizer

    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.enable_padding(
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    text: str = own.to_str()
    return text


def _tokenizer(spec: ModelSpec) -> Any:
    """The checkpoint's own tokenizer, able to pad."""
    from transformers import AutoTokenizer

    file = next((f for name in VOCABULARIES if (f := find_file(spec.path, name))), None)
    if file is None:
        raise ModelError(
            f"model.path: {spec.path} has none of {', '.join(VOCABULARIES)}: "
            "give a checkpoint with its tokenizer"
        )
    for name in BESIDE:  # downloaded too, where the hub has them
        find_file(spec.path, name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent))
        if tokenizer.pad_token_id is None:
            # Any token will do: attention and pooling leave padding out.
            ids = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id, 0)
            filler = next(number for number in ids if number is not None)
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(filler)
    except Exception as error:  # tokenizers raises bare Exception for a corrupt file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model.path: the tokenizer of {spec.path} cannot be read ({reason}): restore its files"
        ) from None
    return tokenizer
