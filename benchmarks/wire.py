"""Speed and size of the wire: MB/s encoded and decoded by setting, on shapes of training steps.

Run `python benchmarks/wire.py [--threads N]`. MB are those of the float32 tensor, 4 B T D / 10^6;
times are medians. A step's wire time is encode + decode of the activations and of the gradient.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch

from cutlayer.methods.spec import Quantizer
from cutlayer.wire.codec import ActivationsMessage, decode_activations, encode_activations

SHAPES = ((32, 50, 384), (32, 50, 128), (16, 50, 128))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="torch's CPU threads")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each setting")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for shape in SHAPES:
        message = batch(*shape)
        megabytes = 4 * message.hidden.numel() / 1e6
        print(f"\n{list(shape)}, {megabytes:.2f} MB, {arguments.threads} thread(s)")
        print("bits levels   rounding   rotate entropy  enc MB/s  dec MB/s  enc+dec ms   smaller")
        for quantizer in settings():
            encode, decode, size = measure(message, quantizer, arguments.repeats)
            print(
                f"{quantizer.bits:4} {quantizer.levels:8} {quantizer.rounding:10} "
                f"{'yes' if quantizer.rotate else 'no':6} {quantizer.entropy:7} "
                f"{megabytes / encode:9.0f} {megabytes / decode:9.0f} "
                f"{1e3 * (encode + decode):11.2f} {1e6 * megabytes / size:8.2f}x"
            )


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
