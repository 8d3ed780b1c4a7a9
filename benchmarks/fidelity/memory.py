"""Device memory of ST-SFLora's Table II: each method's device measured in a process of its own.

    python -m benchmarks.fidelity.memory METHOD MODEL

runs one batch of a device through the code a real one runs (load its part of the model, forward,
backward where the method has one, the optimiser's step) and prints by how many bytes the process
grew at its peak since everything was imported.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from benchmarks.fidelity.page import Claim, Section, table

from cutlayer.allocate.decision import base_decision
from cutlayer.data.dataset import Dataset
from cutlayer.job import Job, make_job
from cutlayer.model.cut import CutModel
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.weights import load_model
from cutlayer.settings.method import Quantizer
from cutlayer.train.device import Device
from cutlayer.train.exchange import ACTIVATIONS, GRADIENT, LOSS
from cutlayer.train.pool import Pool
from cutlayer.train.stopwatch import Stopwatch
from cutlayer.wire.adapter_frames import encode_adapter
from cutlayer.wire.codec import decode_activations, encode_gradient
from cutlayer.wire.messages import AdapterMessage, GradientMessage

METHODS = ("fedlora", "split-lora", "sflora", "st-sflora-full", "st-sflora")
PAPER_GB = {
    "fedlora": 9.0, "split-lora": 2.3, "sflora": 2.3, "st-sflora-full": 1.4, "st-sflora": 1.4,
}  # fmt: skip
BATCH, KEPT, CLASSES, SIZE = 64, 64, 100, 224
TIMES = 3


def section(model: Path) -> Section:
    """Three processes a method; their mean counts."""
    found = {method: [_measure(method, model) for _ in range(TIMES)] for method in METHODS}
    mib = {method: [value / 2**20 for value in values] for method, values in found.items()}
    means = {method: mean(values) for method, values in mib.items()}
    ordered = means["st-sflora"] < means["split-lora"] < means["fedlora"]
    rows = [
        {"method": method, "paper": PAPER_GB[method], "measured": mib[method]} for method in METHODS
    ]
    return Section(
        title="Device memory",
        text=(
            f"One batch of {BATCH} images of {SIZE} x {SIZE} pixels on DINOv2-small, cut after "
            "block 2, LoRA rank 8 on queries and values, AdamW, float32 on the processor. By how "
            "much a device's process grew at its peak since everything was imported, read from "
            f"the kernel (VmHWM), the mean and range of {TIMES} processes a method."
        ),
        claims=(
            Claim(
                "st-sflora < split-lora < fedlora",
                "1.4 < 2.3 < 9.0 GB",
                f"{means['st-sflora']:.0f} < {means['split-lora']:.0f} < "
                f"{means['fedlora']:.0f} MiB" + ("" if ordered else ": not in this order"),
                "another model and no GPU: of ViT-B the paper gives the memory of a GPU, which "
                "holds its kernels' workspace as well",
            ),
        ),
        details=table(
            rows,
            ("method", "method", "text"),
            ("paper", "paper, ViT-B/16 (GB)", "number"),
            ("measured", "measured, DINOv2-small (MiB)", "number"),
        ),
    )


def _measure(method: str, model: Path) -> int:
    command = [sys.executable, "-m", "benchmarks.fidelity.memory", method, str(model)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(json.loads(text.splitlines()[-1])["bytes"])


def _job(method: str, model: str) -> Job:
    return make_job(
        {
            "model": {"path": model, "image_size": SIZE, "cut": 2},
            "method": method,
            "training": {"batch_size": BATCH},
        }
    )


def one_batch(method: str, path: str) -> None:
    """What a device does with its first batch in a round."""
    job = _job(method, path)
    model = load_model(job.model, CLASSES, 0, part="device" if job.method.split else "whole")
    decision = base_decision(job)
    if method == "st-sflora":
        decision = type(decision)(decision.cut, KEPT)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (BATCH, 3, 32, 32), dtype=np.uint8))
    labels = rng.integers(0, CLASSES, BATCH)
    data = Dataset(images, labels, tuple(str(c) for c in range(CLASSES)))
    device = Device(0, data, job, model, Preprocessor(model.spec))
    device.begin(0, decision, _adapter(job, model))
    pool, watch = Pool([device]), Stopwatch()
    if not job.method.split:
        pool.send(LOSS, 0, watch)
        return
    (frame,) = pool.send(ACTIVATIONS, 0, watch)
    if device.adapter:
        assert isinstance(frame, bytes)
        hidden = decode_activations(frame).hidden
        gradient = GradientMessage(0, 0, 0, torch.zeros_like(hidden), 0.0)
        reply = encode_gradient(gradient, Quantizer(bits=32, entropy="none"))
        pool.receive(GRADIENT, 0, {0: reply}, watch)


def _adapter(job: Job, model: CutModel) -> bytes | None:
    """The broadcast of a round; None where a device trains nothing."""
    if job.method.device == "frozen":
        return None
    adapter = model.new_adapter(0)
    names = model.device_names(job.cut) if job.method.split else tuple(adapter)
    return encode_adapter(AdapterMessage(0, 0, 0, {n: adapter[n] for n in names}), 32)


def _peak_bytes() -> int:
    """The most this process ever held: VmHWM, since rusage also counts the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise SystemExit("VmHWM is not in /proc/self/status: measure on Linux")


def main() -> None:
    """One method in this process; prints a line of JSON."""
    method, path = sys.argv[1:]
    from transformers import AutoModelForImageClassification  # noqa: F401 - before the baseline

    before = _peak_bytes()
    one_batch(method, path)
    print(json.dumps({"method": method, "bytes": _peak_bytes() - before}))


if __name__ == "__main__":
    main()
