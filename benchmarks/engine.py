"""The engine against an earlier commit: rounds of both taken in turns, as ratios.

    git worktree add ../before COMMIT
    python benchmarks/engine.py --before ../before [--write]

Each source tree has a process of its own, which trains one round of a variant when asked; the two
are asked alternately, so that what else the machine does falls on both. Compared are seconds of the
processor, evaluation left out. Also: the loop of transformers and PEFT alone, at the same batch.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

REPORTS = Path(__file__).parent / "reports"
ROTATED_4 = [
    f"method.{way}.{setting}"
    for way in ("uplink", "downlink")
    for setting in ("bits=4", "rounding=nearest", "per=token", "levels=gaussian", "rotate=true")
]
VARIANTS = {
    "centralized": ["method=centralized"],
    "fedlora": ["method=fedlora"],
    "sflora": ["method=sflora"],
    "tsflora, 8 bits": ["method=tsflora", "method.tokens.keep=null"],
    "tsflora, 4 bits, rotated": ["method=tsflora", "method.tokens.keep=null", *ROTATED_4],
    "tsflora, 24 tokens": ["method=tsflora", "method.tokens.keep=24", *ROTATED_4],
    "split-lora (in turn)": ["method=split-lora"],
    "st-sflora, all tokens (in turn)": ["method=st-sflora-full"],
}
BARE = "transformers + PEFT alone"


def work() -> None:
    """Answer each line [variant, devices, batch, pool] with seconds and samples of a round."""
    import torch

    from cutlayer.job import change_job, make_job
    from cutlayer.train.parts import load_parts
    from speed import one_round

    torch.set_num_threads(1)
    held: dict[tuple[int, int], Any] = {}
    for number, line in enumerate(sys.stdin):
        variant, devices, batch, pool = json.loads(line)
        job = make_job(
            {
                "devices": {"count": devices},
                "training": {"batch_size": batch, "pool": pool},
                "data": {"train_samples": devices * batch, "partition": {"kind": "iid"}},
            }
        )
        if (devices, batch) not in held:
            held[devices, batch] = load_parts(job)
        parts = held[devices, batch]
        if variant == BARE:
            seconds = bare_step(parts, devices * batch)
        else:
            start = time.process_time()
            one_round(change_job(job, VARIANTS[variant]), parts, number)
            seconds = time.process_time() - start
        print(json.dumps([seconds, devices * batch]), flush=True)


def bare_step(parts: Any, samples: int) -> float:
    """A step of the unsplit model with PEFT's LoRA layers and AdamW on one batch, in seconds."""
    import peft
    import torch
    from transformers import AutoModelForImageClassification

    from cutlayer.model.files import find_file

    spec = parts.model.spec
    config = find_file(spec.path, "config.json")
    assert config is not None
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_pretrained(
        config.parent, num_labels=spec.num_classes, ignore_mismatched_sizes=True
    )
    settings = peft.LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        target_modules=r".*\.(q_proj|v_proj|query|value)",
        modules_to_save=["classifier"],
    )
    tuned = peft.get_peft_model(model, settings).train()
    trained = [tensor for tensor in tuned.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, fused=True)
    batch = parts.train.subset(range(samples))
    pixels = parts.preprocess(batch.inputs)["pixel_values"]
    labels = torch.from_numpy(batch.labels)
    start = time.process_time()
    torch.nn.functional.cross_entropy(tuned(pixel_values=pixels).logits, labels).backward()
    optimizer.step()
    return time.process_time() - start


class Worker:
    """A process that trains rounds with one source tree."""

    def __init__(self, tree: Path) -> None:
        paths = [str(tree / "src"), str(Path(__file__).parent)]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def rate(self, *asked: Any) -> float:
        """Training samples a second of the processor in one round."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {asked} ended: see its message above")
        seconds, samples = json.loads(line)
        return float(samples / seconds)

    def end(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(before: Path, here: Path, sizes: list[tuple[int, int]], rounds: int) -> list[dict]:
    """A row for each variant and size: medians over rounds taken in turns."""
    old, new = Worker(before), Worker(here)
    rows = []
    for devices, batch in sizes:
        for variant in (BARE, *VARIANTS):
            pairs = []
            for round in range(rounds + 1):
                asked = (variant, devices, batch, devices)
                pair = (old.rate(*asked), new.rate(*asked))
                if round:  # the first warms up
                    pairs.append(pair)
            rows.append(
                {
                    "variant": variant,
                    "size": f"{devices} x {batch}",
                    "before": median(one for one, _ in pairs),
                    "now": median(other for _, other in pairs),
                    "ratio": f"{median(other / one for one, other in pairs):.2f}",
                }
            )
            print(rows[-1], flush=True)
    old.end()
    new.end()
    return rows


TEXT = """\
# The engine against the commit before

{environment}

The demo's ViT of 1.2 M parameters, 28 x 28 pixels, 50 tokens, cut 2, LoRA rank 8, float32, one
thread; all devices of a round in one pass (`training.pool` as many as there are), one step a device
and round. *before* is commit {before}. Samples a second of the processor, medians of {rounds}
rounds taken in turns; *ratio* is the median of the ratios of rounds side by side. `{bare}`
is the same code in both columns: how far its ratio is from 1 is what the machine's noise does.

Other work ran on the machine's cores meanwhile. There was no GPU at hand. Not measured are
therefore: samples a second on a GPU, for any method and size; tf32 and bfloat16; CUDA graphs
(`training.compile` there); copies between GPU and CPU; pools sized by a GPU's memory.

    python benchmarks/engine.py --before TREE --rounds {rounds} --write

{table}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="source tree of the commit to compare with")
    parser.add_argument("--sizes", default="64x4,16x4", help="devices x batch, by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", action="store_true", help="be one of the two processes")
    parser.add_argument("--write", action="store_true", help="write benchmarks/reports/engine.md")
    options = parser.parse_args()
    if options.work:
        work()
        return
    if options.before is None:
        parser.error("--before: name the source tree of an earlier commit")
    from cutlayer.drawing import tables
    from environment import describe

    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    here = Path(__file__).parents[1]
    rows = compare(options.before, here, sizes, options.rounds)  # type: ignore[arg-type]
    columns = (
        tables.Column("variant", "variant", "text"),
        tables.Column("size", "devices x batch", "text"),
        tables.Column("before", "samples a second before"),
        tables.Column("now", "now"),
        tables.Column("ratio", "ratio", "text"),
    )
    commit = subprocess.run(
        ["git", "-C", str(options.before), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    text = TEXT.format(
        environment=describe(), before=commit, rounds=options.rounds, bare=BARE,
        table=tables.markdown(rows, columns),
    )  # fmt: skip
    print(text)
    if options.write:
        REPORTS.mkdir(exist_ok=True)
        (REPORTS / "engine.md").write_text(text)


if __name__ == "__main__":
    main()
