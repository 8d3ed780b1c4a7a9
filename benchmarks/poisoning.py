"""What one or two hostile devices of ten cost, by how a round's adapters become one.

    python benchmarks/poisoning.py --runs DIR [--processes 2] [--train 300]
    python benchmarks/poisoning.py --runs DIR --report

The demo's job (ten devices, Dirichlet 0.3, `sflora`), with `--train` of its training images.
Hostile devices are honest but for one thing: what they send back is their change with its sign
turned, or a thousand times it, or NaN; or they train on random labels; or they say that they have
10^12 samples.
The last lie is told with `fedlora`: where a model is cut, a device weighs as many samples as came
through the cut, whatever it says.
Finished runs are kept. `--report` writes benchmarks/reports/poisoning.md and what docs/threat.md
shows of it.
"""

import argparse
import json
import multiprocessing
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cutlayer.allocate.decision import Decision
from cutlayer.data.dataset import Dataset
from cutlayer.drawing import tables
from cutlayer.drawing.tables import Column
from cutlayer.errors import CutlayerError, RunError
from cutlayer.job import Job, change_job
from cutlayer.model.lora import Adapter
from cutlayer.network.server.claims import Claims
from cutlayer.network.transport.messages import Ready
from cutlayer.record.checkpoint import RunState
from cutlayer.rounds.loop import run_rounds
from cutlayer.rounds.progress import Silent
from cutlayer.rounds.run_folder import begin_run
from cutlayer.simulation.demo import demo_job
from cutlayer.simulation.local_fleet import LocalFleet
from cutlayer.train.link import LocalLink, Started
from cutlayer.train.opening import Opening
from cutlayer.train.parts import Parts, load_parts
from cutlayer.wire.adapter_frames import decode_adapter, encode_adapter
from environment import describe
from shared_blocks import DOCS, copy_block, marked

REPORT = Path(__file__).parent / "reports" / "poisoning.md"
PLAIN = "plain mean, nothing checked"
# How the adapters of a round become one, by settings of the job; {k}: the hostile devices.
DEFENCES: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "trimmed mean": ("trust.average=trimmed-mean", "trust.hostile={k}"),
    "mean, checked": (),
    "mean, clipped to 2 x median": ("trust.clip_to_median=2",),
    "median": ("trust.average=median",),
    "krum": ("trust.average=krum", "trust.hostile={k}"),
}
ATTACKS = {
    "sflora": ("sign turned", "x 1000", "random labels", "NaN"),
    "fedlora": ("10^12 samples",),
}
FALSE_SAMPLES = 10**12
# What a plain mean makes of it: as good as all of the weight, in a number whose batches can still
# be counted.
FALSE_WEIGHT = 10**6
Case = tuple[str, str, str, int, int]  # method, defence, attack, hostile devices, seed


class HostileLink(LocalLink):
    """Devices of this process, some of them hostile; what they send is checked, or is not."""

    def __init__(self, fleet: "HostileFleet", honest: LocalLink) -> None:
        super().__init__(honest.devices.values())
        self._fleet = fleet
        self._start: dict[int, Adapter] = {}
        self.rejected: dict[int, str] = {}

    @property
    def believed(self) -> bool:  # type: ignore[override]
        """See Link."""
        return not self._fleet.checked

    def begin(
        self, round: int, decisions: Mapping[int, Decision], openings: Mapping[int, Opening]
    ) -> dict[int, Started]:
        """See Link."""
        started = super().begin(round, decisions, openings)
        for number in self._fleet.hostile & started.keys():
            frame = openings[number].adapter
            assert frame is not None
            self._start[number] = decode_adapter(frame).tensors
        if self._fleet.attack == "10^12 samples":
            said = {
                number: FALSE_SAMPLES if number in self._fleet.hostile else one.samples
                for number, one in started.items()
            }
            if self._fleet.checked:  # as a server bounds them
                # A message holds no such number either: the largest that it does.
                ready = {n: Ready("ab", min(count, 2**31), own=True) for n, count in said.items()}
                said = self._fleet.claims.samples(ready)
            else:
                said = {n: min(count, FALSE_WEIGHT) for n, count in said.items()}
            started = {n: Started(one.steps, said[n]) for n, one in started.items()}
        return started

    def upload(self, devices: Sequence[int]) -> dict[int, bytes]:
        """See Link."""
        frames = super().upload(devices)
        return {n: self._spoilt(n, f) if n in self._start else f for n, f in frames.items()}

    def _spoilt(self, number: int, frame: bytes) -> bytes:
        attack = self._fleet.attack
        if attack == "NaN":
            frame = frame[:-4] + struct.pack("<f", float("nan"))
            checksum = zlib.crc32(frame[22:], zlib.crc32(frame[:18]))
            return frame[:18] + struct.pack("<I", checksum) + frame[22:]
        factor = {"sign turned": -1.0, "x 1000": 1000.0}.get(attack)
        if factor is None:
            return frame
        message, start = decode_adapter(frame), self._start[number]
        tensors = {name: start[name] + factor * (t - start[name]) for name, t in
                   message.tensors.items()}  # fmt: skip
        return encode_adapter(replace(message, tensors=tensors), 32)

    def reject(self, device: int, fault: CutlayerError) -> None:
        """Let go of the device, as a network does."""
        self.rejected[device] = str(fault)


class HostileFleet(LocalFleet):
    """A fleet whose last devices are hostile."""

    def __init__(self, job: Job, parts: Parts, attack: str, hostile: int, checked: bool) -> None:
        super().__init__(job, parts)
        count = job.devices.count
        self.attack, self.checked = attack, checked
        self.hostile = set(range(count - hostile, count))
        self.claims = Claims(job, parts)

    def gather(self, round: int, drawn: Sequence[int], state: RunState) -> dict[int, int]:
        """See Fleet."""
        samples = super().gather(round, drawn, state)
        for number in self.hostile & self.link.devices.keys():
            if self.attack == "random labels":
                device = self.link.devices[number]
                rng = np.random.default_rng((self.job.seed, number))
                data = device.data
                labels = rng.integers(len(data.classes), size=len(data))
                device.data = Dataset(data.inputs, labels, data.classes)
        self.link = HostileLink(self, self.link)
        return samples


def cases(seeds: Sequence[int]) -> list[Case]:
    """Every case; a defence without hostile devices is one of its own."""
    found: list[Case] = []
    for seed in seeds:
        for defence in DEFENCES:
            for method, attacks in ATTACKS.items():
                if defence != "mean, checked":  # which is the plain one where all are honest
                    found.append((method, defence, "none", 0, seed))
                found += [(method, defence, attack, k, seed) for attack in attacks for k in (1, 2)]
    return found


def job_of(case: Case, train: int) -> Job:
    method, defence, _, hostile, seed = case
    settings = [one.format(k=max(1, hostile)) for one in DEFENCES[defence]]
    every = [f"data.train_samples={train}", "data.test_samples=400", "training.pool=10"]
    every += ["training.evaluate_every=100"]
    return change_job(demo_job(seed), [f"method={method}", *every, *settings])


def file_of(runs: Path, case: Case) -> Path:
    name = "-".join(map(str, case)).replace(" ", "_").replace(",", "").replace("^", "")
    return runs / f"{name}.json"


def run_one(task: tuple[Path, Case, int]) -> str:
    """One run, in a process of its own; what came out goes into a file."""
    runs, case, train = task
    path = file_of(runs, case)
    if path.exists():
        return path.name
    torch.set_num_threads(1)
    _, defence, attack, hostile, _ = case
    job = job_of(case, train)
    parts = load_parts(job)
    fleet = HostileFleet(job, parts, attack, hostile, checked=defence != PLAIN)
    folder = path.with_suffix("")
    found: dict[str, Any] = {"case": case, "train": train, "accuracy": None, "tested": None}
    try:
        rows = run_rounds(
            folder, job, parts, fleet, begin_run(folder, job, parts), [], Silent()
        ).rows
        found |= {"accuracy": rows[-1].accuracy, "tested": rows[-1].test_samples}
        found["lost"] = sorted({device for row in rows for device in row.lost})
        found["clipped"] = sorted({device for row in rows for device in row.clipped})
    except RunError as error:
        found["stopped"] = str(error)
    path.write_text(json.dumps(found))
    return path.name


def run_all(options: argparse.Namespace) -> None:
    options.runs.mkdir(parents=True, exist_ok=True)
    tasks = [(options.runs, case, options.train) for case in cases(options.seeds)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for name in pool.imap_unordered(run_one, tasks, chunksize=1):
            print(name, flush=True)


def report(runs: Path, seeds: Sequence[int]) -> str:
    """The page of all runs."""
    found = {
        tuple(one["case"]): one
        for one in (json.loads(path.read_text()) for path in sorted(runs.glob("*.json")))
    }
    some = next(iter(found.values()))
    tested = next(one["tested"] for one in found.values() if one["tested"])
    several = len(seeds) > 1
    named = f"seed{'s' * several} {', '.join(map(str, seeds))}{' (mean)' * several}"
    lines = [
        "# Hostile devices",
        "",
        describe(),
        "",
        f"The demo's job on {some['train']} training images: ten devices, Dirichlet 0.3, four "
        f"rounds; accuracy in % on {tested:,} test images after the last, {named}. *stopped*: an "
        "adapter was no "
        "longer finite. *checked*: an update that is not finite, or a thousand times larger than "
        "the median, is refused, and samples are believed as far as docs/deploy.md says; all lines "
        "but the first check. A frame with NaN is never read, whatever is checked then: its device "
        "is out of the round.",
        "",
        f"    python benchmarks/poisoning.py --runs DIR --train {some['train']}",
    ]
    short: dict[str, dict[tuple[str, str, int], float]] = {}
    for method, attacks in ATTACKS.items():
        columns = [("none", 0), *((attack, k) for attack in attacks for k in (1, 2))]
        header = ["all honest" if k == 0 else f"{attack}, {k}" for attack, k in columns]
        table: list[dict[str, Any]] = []
        values: dict[tuple[str, str, int], float] = {}
        for defence in DEFENCES:
            cells: dict[str, Any] = {"defence": defence}
            for title, (attack, k) in zip(header, columns, strict=True):
                alike = PLAIN if k == 0 and defence == "mean, checked" else defence
                runs_here = [found.get((method, alike, attack, k, seed)) for seed in seeds]
                accuracies = [one["accuracy"] if one else None for one in runs_here]
                if any(one and "stopped" in one for one in runs_here):
                    cells[title] = "stopped"
                elif None in accuracies:
                    cells[title] = "-"
                else:
                    mean = 100 * float(np.mean([a for a in accuracies if a is not None]))
                    values[defence, attack, k] = mean
                    cells[title] = f"{mean:.1f}"
            if "-" in cells.values():  # its runs are not all there
                values = {key: value for key, value in values.items() if key[0] != defence}
            else:
                table.append(cells)
        shown = [Column("defence", "how adapters become one", "text")]
        shown += [Column(title, title, "text") for title in header]
        lines += ["", f"## {method}", "", tables.markdown(table, shown), *findings(values)]
        short[method] = values
    lines += ["", "## In short", "", marked(REPORT.name, in_short(short, some["train"], named))]
    return "\n".join(lines)


def in_short(found: dict[str, dict[tuple[str, str, int], float]], train: int, named: str) -> str:
    """Each average with honest devices and at its worst: the block that docs/threat.md has too.

    found: by method, the accuracy in % by defence, attack and number of hostile devices.
    """
    columns = [Column("defence", "how adapters become one", "text")]
    for method in found:
        columns.append(Column(f"{method}, honest", f"`{method}`, all honest", "text"))
        columns.append(Column(f"{method}, worst", f"`{method}`, at worst", "text"))
    table: list[dict[str, str]] = []
    for defence in DEFENCES:
        cells = {"defence": defence}
        for method, values in found.items():
            under = {key[1:]: v for key, v in values.items() if key[0] == defence}
            under |= {("none", 0): values[PLAIN, "none", 0]} if defence == "mean, checked" else {}
            if not under:
                continue
            hostile = {key: v for key, v in under.items() if key[1]}
            attack, k = min(hostile, key=lambda key: hostile[key])
            cells[f"{method}, honest"] = f"{under['none', 0]:.1f}"
            cells[f"{method}, worst"] = f"{hostile[attack, k]:.1f} ({k} with {attack})"
        table.append(cells)
    return (
        f"Accuracy in % on the demo with {train} images and ten devices, {named}: with all honest, "
        "and under the attack tried by one or two devices that costs the most.\n\n"
        + tables.markdown(table, columns)
    )


def findings(values: dict[tuple[str, str, int], float]) -> list[str]:
    """What the figures of a table say, computed from them."""
    honest = values.get((PLAIN, "none", 0))
    if honest is None:
        return []
    said = []
    for defence in DEFENCES:
        under = {key[1:]: v for key, v in values.items() if key[0] == defence and key[2]}
        if not under:
            continue
        attack, k = min(under, key=lambda key: under[key])
        price = values.get((defence if defence != "mean, checked" else PLAIN, "none", 0), honest)
        said.append(
            f"- *{defence}*: {price - honest:+.1f} points where all are honest; at worst "
            f"{under[attack, k] - honest:+.1f} points, by {k} device{'s' * (k > 1)} with "
            f"*{attack}*."
        )
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if not options.report:
        run_all(options)
    REPORT.write_text(report(options.runs, options.seeds))
    copy_block(REPORT, DOCS / "threat.md")


if __name__ == "__main__":
    main()
