"""Turns texts into token ids for a program, by the checkpoint's own tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.errors import ModelError
from cutlayer.light.job import Texts

TOKENIZER = "tokenizer.json"
"""The file of the tokenizer, which also says how texts are padded to the longest."""


class Tokens:
    """Turns texts into token ids. folder: of the tokenizer's file. Raises ModelError."""

    def __init__(self, folder: Path, texts: Texts) -> None:
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError:
            raise ModelError(
                "model.path: the job's model reads texts, but tokenizers is not installed: pip "
                "install tokenizers"
            ) from None
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelError(f"program: its tokenizer cannot be read ({error})") from None
        self._tokenizer.enable_truncation(texts.max_tokens)

    def __call__(self, texts: list[str]) -> dict[str, NDArray[np.int64]]:
        """ids and attention [B, T], T the longest text's."""
        found = self._tokenizer.encode_batch(texts)
        return {
            "ids": np.array([one.ids for one in found], np.int64),
            "attention": np.array([one.attention_mask for one in found], np.int64),
        }
