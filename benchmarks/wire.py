"""Speed and size of the wire: MB/s encoded and decoded by setting, on shapes of training steps.

python benchmarks/wire.py [--threads N] [--write]
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cutlayer.drawing import tables
from cutlayer.settings.method import Quantizer
from cutlayer.wire.codec import decode_activations, encode_activations
from cutlayer.wire.messages import ActivationsMessage
from environment import describe

SHAPES = ((32, 50, 384), (32, 50, 128), (16, 50, 128))


REPORTS = Path(__file__).parent / "reports"
COLUMNS = (
    tables.Column("bits", "bits", "count"),
    tables.Column("levels", "levels", "text"),
    tables.Column("rounding", "rounding", "text"),
    tables.Column("rotate", "rotated", "text"),
    tables.Column("entropy", "entropy", "text"),
    tables.Column("encode", "encode MB/s"),
    tables.Column("decode", "decode MB/s"),
    tables.Column("milliseconds", "both, ms"),
    tables.Column("ratio", "smaller", "ratio"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="torch's CPU threads")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each setting")
    parser.add_argument("--write", action="store_true", help="write benchmarks/reports/wire.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = TEXT.format(environment=describe(), **vars(options))
    for shape in SHAPES:
        rows = [row(batch(*shape), quantizer, options.repeats) for quantizer in settings()]
        text += f"\n## {list(shape)}\n\n{tables.markdown(rows, COLUMNS)}"
    print(text)
    if options.write:
        REPORTS.mkdir(exist_ok=True)
        (REPORTS / "wire.md").write_text(text)


TEXT = """\
# Speed and size of the wire

{environment}

Activations [B, T, D] of a batch, with outlier channels as pretrained transformers have them,
encoded to frames and decoded, {threads} thread(s), medians of {repeats} calls. MB are those of the
float32 tensor; *smaller*: float32 bytes over the frame's, headers and labels included. A training
step encodes and decodes twice: activations up, gradients down.

    python benchmarks/wire.py --threads {threads} --repeats {repeats} --write
"""


def row(message: ActivationsMessage, quantizer: Quantizer, repeats: int) -> dict:
    megabytes = 4 * message.hidden.numel() / 1e6
    encode, decode, size = measure(message, quantizer, repeats)
    return {
        "bits": quantizer.bits,
        "levels": quantizer.levels if quantizer.bits <= 8 else None,
        "rounding": quantizer.rounding if quantizer.bits <= 8 else None,
        "rotate": "yes" if quantizer.rotate else "no",
        "entropy": quantizer.entropy,
        "encode": megabytes / encode,
        "decode": megabytes / decode,
        "milliseconds": 1e3 * (encode + decode),
        "ratio": 1e6 * megabytes / size,
    }


def batch(B: int, T: int, D: int) -> ActivationsMessage:
    """Normal hidden states with the few outlier channels of pretrained transformers."""
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, T, D, generator=rng)
    hidden[..., :: D // 3] *= 20
    labels = torch.randint(10, (B,), generator=rng)
    return ActivationsMessage(0, 0, 0, hidden, None, labels, 10)


def settings() -> list[Quantizer]:
    low = [
        Quantizer(bits=bits, levels=levels, rotate=rotate, entropy=entropy)
        for bits, levels, rotate, entropy in itertools.product(
            (8, 4, 2), ("uniform", "gaussian"), (False, True), ("none", "zstd")
        )
    ]
    stochastic = [Quantizer(bits=bits, rounding="stochastic", rotate=True) for bits in (8, 4, 2)]
    whole = [Quantizer(bits=bits, entropy=e) for bits in (32, 16) for e in ("none", "zstd")]
    return whole + low + stochastic


def measure(
    message: ActivationsMessage, quantizer: Quantizer, repeats: int
) -> tuple[float, float, int]:
    """Seconds to encode, seconds to decode, bytes."""
    rng = torch.Generator().manual_seed(0)
    frame = encode_activations(message, quantizer, rng=rng)
    encode = median_s(lambda: encode_activations(message, quantizer, rng=rng), repeats)
    return encode, median_s(lambda: decode_activations(frame), repeats), len(frame)


def median_s(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
