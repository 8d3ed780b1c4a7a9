"""What a curious server makes of images by cut, tokens, codec, rate and noise, against accuracy.

    python benchmarks/audit.py --model DINOV2 --data CIFAR10 --runs DIR
    python benchmarks/audit.py --runs DIR --report

MODEL is a DINOv2-small checkpoint folder, DATA a folder with train.parquet and test.parquet. Each
line is audited (`cutlayer audit`) and calibrated (`cutlayer calibrate`: accuracy of a linear head
on what arrives) on the same grid. Lines that lie in DIR are kept. `--report` writes
benchmarks/reports/audit.md with its figures, and what docs/threat.md shows of it. Members are told
by the adapter of a short run of the demo. Needs torchmetrics (cutlayer[audit]) for SSIM.
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cutlayer.drawing import tables
from cutlayer.drawing.style import COLOURS, GREY, MARKERS, legend, new_figure, plain_log
from cutlayer.drawing.tables import Column
from cutlayer.job import Job, change_job, make_job
from cutlayer.planning.calibration.calibrate import calibrate
from cutlayer.planning.calibration.record import (
    Calibration,
    read_calibration,
    write_calibration,
)
from cutlayer.planning.leakage.record import Leakage, Members, read_leakage
from cutlayer.privacy.attacks import Effort
from cutlayer.privacy.audit import audit
from cutlayer.rounds.progress import Silent
from cutlayer.simulation.demo import demo_job
from cutlayer.simulation.simulate import simulate
from environment import describe
from shared_blocks import DOCS, copy_block, marked

REPORT = Path(__file__).parent / "reports" / "audit.md"
CUTS, SIDE = (0, 2, 4, 6, 8), 70
GAUSSIAN = {"codec": "quantize", "levels": "gaussian", "rotate": True, "bits": 4}


@dataclass(frozen=True)
class Line:
    """A codec with or without noise, and what of the grid it is attacked at."""

    uplink: dict[str, Any]
    tokens: tuple[int | None, ...]
    bits: tuple[float, ...]
    device: str = "frozen"
    noise: float = 0.0
    steps: int = 0


LINES = {
    "few bits": Line(GAUSSIAN, (6, None), (2, 4), "trained", steps=15),
    "few bits, noise 1": Line(GAUSSIAN, (None,), (4,), noise=1.0),
    "fitted codec": Line({"codec": "klt"}, (6, None), (0.12, 0.5)),
    "few bits, noise 4": Line(GAUSSIAN, (None,), (4,), noise=4.0),
}


def job_of(line: Line, options: argparse.Namespace) -> Job:
    return make_job(
        {
            "seed": options.seed,
            "model": {"path": str(options.model), "image_size": SIDE, "cut": 2},
            "data": {
                "source": "parquet",
                "path": str(options.data),
                "input_column": "image",
                "calibration": "held-out",
            },
            "method": {
                "name": "sflora",
                "device": line.device,
                "uplink": line.uplink,
                "tokens": {"rest": "drop"},
            },
            "privacy": {"activation_noise": line.noise},
        }
    )


def run_all(options: argparse.Namespace) -> None:
    """All lines that are not there yet, one after another."""
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    for name, line in LINES.items():
        place = options.runs / name.replace(",", "").replace(" ", "-")
        job = job_of(line, options)
        grid = {"cuts": CUTS, "tokens": line.tokens, "bits": line.bits}
        if not place.with_suffix(".audit.json").exists():
            effort = Effort(options.public, options.attacked, options.steps, line.steps, inverted=2)
            audit(
                job,
                **grid,
                effort=effort,
                out=place.with_suffix(".audit.json"),
                sheet=place.with_suffix(".png"),
                progress=lambda what, done, steps: print(what, done, steps, flush=True),
            )
        if not place.with_suffix(".calibration.json").exists():
            found = calibrate(job, samples=options.tested, **grid)
            write_calibration(found, place.with_suffix(".calibration.json"))
        print(name, flush=True)
    tell_members(options.runs / "members")


def tell_members(place: Path) -> None:
    """Train the demo for a little and see whom its adapter tells, unless that was done."""
    record = place.with_suffix(".audit.json")
    if record.exists():
        return
    if not place.exists():
        job = change_job(demo_job(), ["data.train_samples=300", "data.test_samples=400"])
        simulate(job, out=place, progress=Silent())
    few = Effort(48, 16, 10, 0)
    audit(place, effort=few, out=record, sheet=place.with_suffix(".png"))


Found = dict[str, tuple[Leakage, Calibration]]


def read_all(runs: Path) -> Found:
    found = {}
    for name in LINES:
        place = runs / name.replace(",", "").replace(" ", "-")
        files = [place.with_suffix(f".{kind}.json") for kind in ("audit", "calibration")]
        if all(path.exists() for path in files):
            found[name] = (read_leakage(files[0]), read_calibration(files[1]))
    return found


def cells(found: Found) -> list[dict[str, Any]]:
    """A row for each setting of each line; whole floats of all tokens once for each noise."""
    rows = []
    for name, (leak, quality) in found.items():
        bound = leak.bound_psnr_db()
        for c, k, q in np.argwhere(~np.isnan(leak.psnr_db)).tolist():
            # A fitted codec sends whole floats as any other does.
            if name == "fitted codec" and leak.bits[q] == 32:
                continue
            rows.append(
                {
                    "line": name,
                    "cut": leak.cuts[c],
                    "tokens": leak.tokens[k],
                    "bits": leak.bits[q],
                    "bytes": float(leak.bytes_per_sample[c, k, q]),
                    "accuracy": float(quality.accuracy[c, k, q]),
                    "agreement": float(quality.agreement[c, k, q]),
                    **{
                        key: float(getattr(leak, key)[c, k, q])
                        for key in ("psnr_db", "ssim", "reidentified", "matched")
                    },
                    "inverted": float(leak.inverted_psnr_db[c, k, q]),
                    "bound": None if bound is None else float(bound[c, k]),
                }
            )
    for row in rows:
        row["front"] = not any(_beats(other, row) for other in rows)
    return rows


def _beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether one is as accurate, small and tight-lipped as the other, and better in some."""
    mine = (-one["accuracy"], one["bytes"], one["reidentified"])
    theirs = (-other["accuracy"], other["bytes"], other["reidentified"])
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def draw(rows: list[dict[str, Any]], chance: float, path: Path) -> None:
    """Leakage against bytes and against accuracy; settings that nothing beats are filled."""
    with new_figure(path, width=9.5, height=4.8) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, key, scale in ((left, "bytes", 1e-3), (right, "accuracy", 100)):
            for number, name in enumerate(dict.fromkeys(row["line"] for row in rows)):
                for front in (False, True):
                    own = [r for r in rows if r["line"] == name and r["front"] == front]
                    axes.scatter(
                        [scale * r[key] for r in own],
                        [100 * r["reidentified"] for r in own],
                        marker=MARKERS[number],
                        s=42,
                        edgecolors=COLOURS[number],
                        facecolors=COLOURS[number] if front else "none",
                        label=name if front and axes is left else None,
                    )
                    for r in own:
                        if front:
                            axes.annotate(
                                f"{r['cut']}",
                                (scale * r[key], 100 * r["reidentified"]),
                                xytext=(4, 4),
                                textcoords="offset points",
                                fontsize=8,
                            )
            axes.axhline(100 * chance, color=GREY, linestyle=":")
        left.set_xscale("log")
        plain_log(left)
        left.set(xlabel="kB a sample (logarithmic)", ylabel="re-identified (%)")
        right.set(xlabel="accuracy of a linear head (%)")
        figure.suptitle(
            "Filled: no setting is better in accuracy, bytes and re-identification together; "
            "numbers: the cut; dotted: chance",
            fontsize=10,
        )
        legend(figure)


def report(runs: Path) -> str:
    found = read_all(runs)
    rows = cells(found)
    told = read_leakage(runs / "members.audit.json").members
    assert told is not None
    leak, quality = next(iter(found.values()))
    draw(rows, leak.chance, REPORT.with_name("audit.png"))
    for name in found:
        slug = name.replace(",", "").replace(" ", "-")
        shutil.copy(runs / f"{slug}.png", REPORT.with_name(f"audit-{slug}.png"))
    columns = [
        Column("line", "line", "text"),
        Column("cut", "cut", "count"),
        Column("tokens", "tokens", "count"),
        Column("bits", "bits"),
        Column("bytes", "bytes a sample", "count"),
        Column("accuracy", "accuracy", "percent"),
        Column("psnr_db", "PSNR (dB)"),
        Column("ssim", "SSIM"),
        Column("reidentified", "re-identified", "percent"),
        Column("matched", "matched", "percent"),
        Column("inverted", "PSNR by descent (dB)"),
        Column("bound", "bound (dB)"),
    ]
    anchors = [
        {"line": name, "psnr_db": one.psnr_db, "ssim": one.ssim, "reidentified": one.reidentified}
        for name, one in leak.anchors.items()
    ]
    anchors.append({"line": "drawing lots", "reidentified": leak.chance})
    labels = [
        {"cut": cut, "norm": told.norm, "direction": told.direction}
        for cut, told in leak.gradient_labels.items()
    ]
    lines = [
        "# What a curious server makes of images",
        "",
        describe(),
        "",
        f"DINOv2-small at {SIDE} x {SIDE} pixels ({leak.tokens[-1]} tokens) on CIFAR-10, before "
        f"any training, seed {leak.seed}: {leak.attacked} images attacked by decoders trained for "
        f"{leak.decoder_steps} steps on {leak.public} others, compared at {leak.pixels} x "
        f"{leak.pixels} pixels.",
        "",
        f"- *Accuracy*: of a linear head fitted to {quality.head_samples} images, on "
        f"{quality.samples} others whose activations crossed so, so that 50 % are sure to "
        f"{100 * 0.5 / quality.samples**0.5:.0f} points (one standard error).",
        "- *Re-identified*: images made again that are nearest to their own original. *Matched*: "
        "activations nearest to those that the attacker computes itself of the same image.",
        f"- *By descent*: the decoder's image made better by {leak.inversion_steps} steps on its "
        f"pixels, {leak.inverted} images.",
        "- *Noise*: standard deviation on activations, in units of their root mean square. "
        "*Bound*: the largest mean PSNR of an unbiased attack on the values sent; a decoder is not "
        "unbiased.",
        "- *Fitted codec*: klt, at rates in bits a value; else Gaussian levels after a rotation. "
        "Tokens that are left out are dropped.",
        "- Few images and steps: figures of attacks are floors, not ceilings.",
        "",
        "    python benchmarks/audit.py --model DINOV2 --data CIFAR10 --runs DIR "
        f"--public {leak.public} --attacked {leak.attacked} --steps {leak.decoder_steps} "
        f"--tested {quality.samples}",
        "",
        "![Leakage against bytes and accuracy](audit.png)",
        "",
        marked(REPORT.name, in_short(rows, leak, told)),
        *findings(rows, leak)[:-2],
        "",
        "## Every setting",
        "",
        tables.markdown(rows, columns),
        "What to hold them against:",
        "",
        tables.markdown(anchors, [columns[0], *columns[6:9]]),
        "## Labels from gradients",
        "",
        "The mean area under the curve (AUC) of telling one class from all others by the gradient "
        "of a sample at the cut, uncompressed; 0.5 is chance.",
        "",
        tables.markdown(
            labels,
            [
                Column("cut", "cut", "count"),
                Column("norm", "by length"),
                Column("direction", "by direction"),
            ],
        ),
        "## Images",
        "",
    ]
    for name in found:
        slug = name.replace(",", "").replace(" ", "-")
        lines += [f"*{name}*:", "", f"![Images made again: {name}](audit-{slug}.png)", ""]
    return "\n".join(lines).rstrip() + "\n"


def in_short(rows: list[dict[str, Any]], leak: Leakage, told: Members) -> str:
    """What crosses, and what came back of it: the block that docs/threat.md has too."""
    every, late = leak.tokens[-1], leak.cuts[-1]
    first = leak.cuts[0]
    blurred, label = leak.anchors["blurred image"], leak.anchors["label only"]

    def some(line: str, **of: Any) -> list[dict[str, Any]]:
        own = [row for row in rows if row["line"] == line]
        return [row for row in own if all(row[name] == value for name, value in of.items())]

    def span(some_rows: list[dict[str, Any]]) -> str:
        shares = [100 * row["reidentified"] for row in some_rows]
        ends = f"{min(shares):.0f}", f"{max(shares):.0f}"
        return f"{ends[0]} %" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]} %"

    (whole,) = some("few bits", cut=late, tokens=every, bits=32)
    coarsest = {"few bits": min(leak.bits)}
    coarsest["fitted codec"] = min(row["bits"] for row in some("fitted codec"))
    quiet = [row for row in rows if "noise" not in row["line"]]
    noisy = [row for row in rows if "noise" in row["line"]]
    table = [
        (
            f"all {every} tokens in whole floats, cut after block {late}",
            f"{span([whole])} re-identified, at {whole['psnr_db']:.1f} dB (a blurred image: "
            f"{100 * blurred.reidentified:.0f} %, {blurred.psnr_db:.1f} dB; the label alone: "
            f"{100 * label.reidentified:.0f} %, {label.psnr_db:.1f} dB; chance: "
            f"{100 * leak.chance:.1f} %)",
        ),
        (
            f"all tokens in {coarsest['few bits']:g} bits, over all cuts",
            f"{span(some('few bits', tokens=every, bits=coarsest['few bits']))} re-identified",
        ),
        (
            f"all tokens by `klt` at {coarsest['fitted codec']:g} bits a value, over all cuts",
            f"{span(some('fitted codec', tokens=every, bits=coarsest['fitted codec']))} "
            "re-identified",
        ),
        (
            f"{leak.tokens[0]} tokens in {coarsest['few bits']:g} bits",
            ", ".join(
                f"{100 * row['reidentified']:.0f} % at cut {row['cut']}"
                for row in some("few bits", tokens=leak.tokens[0], bits=coarsest["few bits"])
            )
            + " re-identified",
        ),
    ]
    for name in dict.fromkeys(row["line"] for row in noisy):
        level = LINES[name].noise
        for cut in (first, late):
            (row,) = some(name, cut=cut, bits=4)
            (without,) = some("few bits", cut=cut, tokens=every, bits=4)
            table.append(
                (
                    f"all tokens in 4 bits, `privacy.activation_noise: {level:g}`, cut {cut}",
                    f"{span([row])} re-identified ({span([without])} without noise); accuracy of "
                    f"a linear head {100 * row['accuracy']:.0f} % "
                    f"({100 * without['accuracy']:.0f} %)",
                )
            )
    direction = {cut: labels.direction for cut, labels in leak.gradient_labels.items()}
    table += [
        (
            "any of these without noise, seen by whoever has the candidate images",
            f"at least {100 * min(row['matched'] for row in quiet):.0f} % matched to their images "
            f"(with noise: at least {100 * min(row['matched'] for row in noisy):.0f} %)",
        ),
        (
            f"the adapter of a short run of the demo, by its loss ({told.members} members)",
            f"{100 * told.caught:.1f} % of the members found at 1 % false alarms (AUC "
            f"{told.auc:.2f})",
        ),
        (
            "a sample's gradient at the cut, by its direction",
            f"one class told from all others with an AUC of {direction[first]:.2f} at cut {first} "
            f"and {direction[late]:.2f} at cut {late}",
        ),
    ]
    lines = [
        f"{leak.attacked} images attacked by small decoders, trained for {leak.decoder_steps} "
        f"steps on {leak.public} others, seed {leak.seed}. These attacks are a floor, not a "
        "ceiling.",
        "",
        "| what crosses | what came back |",
        "|---|---|",
        *(f"| {crosses} | {came} |" for crosses, came in table),
        "",
        *findings(rows, leak)[-2:],
    ]
    return "\n".join(lines)


def findings(rows: list[dict[str, Any]], leak: Leakage) -> list[str]:
    """What the figures say, computed from them."""
    plain = [row for row in rows if row["line"] == "few bits"]
    whole = [r for r in plain if r["tokens"] == leak.tokens[-1]]
    said = []
    exact = {r["cut"]: r for r in whole if r["bits"] == 32}
    said.append(
        "- All tokens in whole floats, by cut: "
        + ", ".join(
            f"{cut}: {100 * r['reidentified']:.0f} % re-identified at {r['psnr_db']:.1f} dB"
            for cut, r in exact.items()
        )
        + f" (chance {100 * leak.chance:.1f} %)."
    )
    few = {r["cut"]: r for r in whole if r["bits"] == min(leak.bits)}
    said.append(
        f"- The same in {min(leak.bits):g} bits: "
        + ", ".join(f"{cut}: {100 * r['reidentified']:.0f} %" for cut, r in few.items())
        + "."
    )
    least = [r for r in plain if r["tokens"] < leak.tokens[-1] and r["bits"] == min(leak.bits)]
    said.append(
        f"- With {leak.tokens[0]} tokens in {min(leak.bits):g} bits: "
        + ", ".join(f"{r['cut']}: {100 * r['reidentified']:.0f} %" for r in least)
        + "."
    )
    quiet = [r for r in rows if "noise" not in r["line"]]
    said.append(
        f"- Matched without noise: {100 * min(r['matched'] for r in quiet):.0f} % at least, over "
        f"{len(quiet)} settings."
    )
    for name in dict.fromkeys(r["line"] for r in rows if "noise" in r["line"]):
        own = [r for r in rows if r["line"] == name and r["bits"] != 32]
        pairs = [
            (r, next(p for p in whole if p["cut"] == r["cut"] and p["bits"] == r["bits"]))
            for r in own
        ]
        said.append(
            f"- *{name}* against the same without: "
            + "; ".join(
                f"cut {r['cut']} {100 * p['reidentified']:.0f} to {100 * r['reidentified']:.0f} % "
                f"re-identified, accuracy {100 * p['accuracy']:.0f} to {100 * r['accuracy']:.0f} %"
                for r, p in pairs
            )
            + f"; matched {100 * min(r['matched'] for r in own):.0f} % at least."
        )
    blurred = leak.anchors["blurred image"].reidentified
    front = sorted((r for r in rows if r["front"]), key=lambda r: r["reidentified"])
    best = max(r["accuracy"] for r in rows)
    near = [r for r in front if r["accuracy"] >= best - 0.1]
    said.append(
        f"- Of {len(rows)} settings {len(front)} are beaten by none in accuracy, bytes and "
        f"re-identification together. Within 10 points of the best accuracy ({100 * best:.0f} %) "
        f"the least re-identification is {100 * near[0]['reidentified']:.0f} % "
        f"(*{near[0]['line']}*, cut {near[0]['cut']}, {near[0]['tokens']} tokens, "
        f"{near[0]['bits']:g} bits, {near[0]['bytes']:,.0f} bytes); of a blurred image it "
        f"is {100 * blurred:.0f} %."
    )
    half = [r for r in rows if r["reidentified"] <= 0.5]
    top = max(half, key=lambda r: r["accuracy"])
    said.append(
        f"- Of the {len(half)} settings with half of the images re-identified or fewer the most "
        f"accurate has {100 * top['accuracy']:.0f} % at {100 * top['reidentified']:.0f} % "
        f"(*{top['line']}*, cut {top['cut']}, {top['tokens']} tokens, {top['bits']:g} bits, "
        f"{top['bytes']:,.0f} bytes)."
    )
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--public", type=int, default=400)
    parser.add_argument("--attacked", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--tested", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if not options.report:
        run_all(options)
    REPORT.write_text(report(options.runs))
    copy_block(REPORT, DOCS / "threat.md")


if __name__ == "__main__":
    main()
