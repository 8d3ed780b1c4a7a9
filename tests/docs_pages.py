"""The blocks of the README and of docs/: what is in them, and small things for them to work on."""

from __future__ import annotations

import random
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import tiny_models

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GENERATED = {DOCS / "fidelity.md"}
"""Written by a program that says how to run it."""

PAGES = [ROOT / "README.md", *sorted(set(DOCS.rglob("*.md")) - GENERATED)]
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "fine", "bad", "poor", "film", "a")

SHELL = ("sh", "bash", "console")

_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<why>[^\n]+?) -->\n+ *)?"
    r'```(?P<language>\w*)(?: +title="(?P<title>[^"\n]+)")?[^\n]*\n(?P<text>.*?)^ *```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block. why: the reason for not running it, if there is one. line: of the page."""

    language: str
    title: str | None
    text: str
    why: str | None
    line: int

    def commands(self) -> list[list[str]]:
        """The words of each command, comments left out; none where the block is not of shell."""
        if self.language not in SHELL:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    source = page.read_text()
    found = []
    for match in _BLOCK.finditer(source):
        text = match["text"]
        title = match["title"]
        named = re.match(r"# (\w+\.py)\n", text)
        if named and title is None:
            title = named[1]
        line = source.count("\n", 0, match.start()) + 1
        found.append(Block(match["language"], title, text, match["why"], line))
    return found


def furnish(folder: Path, page: Path) -> None:
    """Make what a page takes for granted: a folder of images, and tiny checkpoints in place of
    real ones.
    """
    source = page.read_text()
    if "my-images" in source:
        _images(folder / "my-images", classes=10, each=30)
    if "facebook/dinov2-small" in source:
        sizes = {"image_size": 98, "patch_size": 14, "num_hidden_layers": 7}
        # As on the hub: without a head.
        bare: Any = tiny_models.build("dinov2", **sizes).get_submodule("dinov2")
        bare.save_pretrained(folder / "facebook" / "dinov2-small")
    if "my-llama" in source:
        tiny_models.write_language(folder / "my-llama")
    if "my-bert" in source:
        bert = tiny_models.write(folder / "my-bert", "bert")
        (bert / "vocab.txt").write_text("\n".join(WORDS))
        (bert / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


def _images(folder: Path, classes: int, each: int) -> None:
    dice = random.Random(0)
    for label in range(classes):
        (folder / f"class-{label}").mkdir(parents=True)
        for number in range(each):
            colour = tuple(dice.randrange(256) for _ in range(3))
            Image.new("RGB", (8, 8), colour).save(folder / f"class-{label}" / f"{number}.png")
