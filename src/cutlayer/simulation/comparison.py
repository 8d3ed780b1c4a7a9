"""Finished runs side by side: the tables of a comparison, a row for each of its lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from cutlayer import methods
from cutlayer.drawing import tables
from cutlayer.drawing.notebook import data_frame, paragraphs, table_html
from cutlayer.drawing.tables import Column
from cutlayer.model.families import describe
from cutlayer.planning.known.method_costs import round_costs
from cutlayer.record.data_file import FORMATS, own_bytes_of, said_of
from cutlayer.reports.views.finding import finding
from cutlayer.reports.views.statistics import paired_interval
from cutlayer.rounds.result import Result
from cutlayer.simulation import drop_outs
from cutlayer.simulation.drop_outs import drop_out_pairs, drop_out_rows
from cutlayer.simulation.lines import Line
from cutlayer.simulation.protocols import NOTES as PROTOCOL_NOTES
from cutlayer.simulation.protocols import Protocols, columns_of, measure, protocol_rows

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    Column("method", "method", "text"),
    Column("accuracy", "accuracy", "percent"),
    Column("through_cut", "through cut", "percent"),
    Column("up", "up a round", "bytes"),
    Column("down", "down a round", "bytes"),
    Column("total", "total", "bytes"),
    Column("ratio", "saving", "ratio"),
    *(Column(key, f"over {name}", "ratio") for key, name in FORMATS.items()),
    Column("memory", "device memory", "bytes"),
    Column("device_flops", "device a round", "flops"),
    Column("server_flops", "server a round", "flops"),
)
WORLD_COLUMNS = (
    Column("method", "method", "text"),
    Column("virtual_s", "a round", "seconds"),
    Column("total_s", "in all", "seconds"),
    Column("joules", "devices a round J"),
    Column("ste", "STE 1/s"),
    Column("dropped", "dropped", "count"),
)
DIFFERENCE_COLUMNS = (
    Column("method", "method", "text"),
    Column("difference", "difference", "percent"),
    Column("low", "from", "percent"),
    Column("high", "to", "percent"),
    Column("seeds", "seeds", "count"),
)
WORLD_NOTES = """\
STE: semantic transmission efficiency, mean over rounds; "-" where devices take turns or send no
tokens, and where no calibration says how important the tokens kept are.
dropped: turns of devices that were left out, came too late or were lost.
"""
CALIBRATION_NOTES = """\
auto goes by what the server measured before the first round on samples that no device has
(data.calibration): nothing of that is on the air, and its seconds are in no column.
"""
DIFFERENCE_NOTES = """\
difference: of accuracy from {reference}'s, in points, mean over the seeds that both ran; a seed
fixes devices, data and world, so the difference is taken seed by seed. from, to: where the mean
lies with 95 % confidence, by Student's t of the paired differences, taken to be about normal: an
interval without 0 tells the two apart.
"""
NOTES = """\
accuracy: of the exported adapter in the unsplit model, on {tested} test samples, after the last
round.
through cut: of device and server together, with the method's tokens and bits.
up, down: bytes of the frames of all devices, mean over rounds; total: both, over the whole run.
saving: bytes of sflora at 32 bits over this method's, both measured in this comparison.
over JPEG, WebP, text, stored files: total over what all training samples themselves take, sent
once: images at the model's size at quality 75, texts in UTF-8 together under zstandard, images in
the files that they came in. Below 1, the split sends less than the data are.
device memory, FLOPs: from the cost model; FLOPs of a mean device and of the server in a mean round.
"""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Finished runs side by side, which a notebook shows as a sentence and a table.

    folder: where its runs, tables and figures lie.
    lines: a label and its runs, one for each seed. rows: one for each line; its values are numbers,
    or with several seeds lists of numbers, in the order of the seeds. protocols: the budgets and
    the target accuracy of the rows, settled.
    """

    folder: Path
    lines: Sequence[Line]
    rows: Sequence[dict[str, Any]]
    protocols: Protocols

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(self.labels)} in {self.folder}>"

    def _repr_html_(self) -> str:
        own = own_bytes_of(self.results[0].folder)
        once = f"All training samples themselves, sent once: {said_of(own)}." if own else ""
        shown = paragraphs([said for said in (self.finding, once) if said])
        shown += table_html(self.rows, self._terminal_columns, f"In {self.folder}")
        return shown + (table_html(self.rows, WORLD_COLUMNS, "In the job's world") * self.in_world)

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each run: label, seed, its folder, and the columns of comparison.md.

        Accuracies are fractions; bytes, FLOPs, seconds and joules plain. Raises RunError where
        pandas is not installed.
        """
        found = []
        for line, row in zip(self.lines, self.rows, strict=True):
            for place, result in enumerate(line.results):
                several = len(line.results) > 1
                own = {
                    key: value[place] if several else value
                    for key, value in row.items()
                    if key != "method"
                }
                found.append(
                    {
                        "label": line.label,
                        "seed": result.job.seed,
                        "folder": str(result.folder),
                        **own,
                    }
                )
        return data_frame(found)

    @property
    def labels(self) -> list[str]:
        """The label of each line."""
        return [line.label for line in self.lines]

    @property
    def results(self) -> list[Result]:
        """Every run, line after line."""
        return [result for line in self.lines for result in line.results]

    @property
    def finding(self) -> str:
        """One sentence: which line is the most accurate, by how much and how surely.

        A line with drop-outs beside the same one without is no other method, and is left out.
        """
        dropping = [line.label for _, line in drop_out_pairs(self.lines)]
        lines = [line for line in self.lines if line.label not in dropping]
        return finding([(line.label, line.accuracy) for line in lines])

    def tables(self) -> list[tables.Fitted]:
        """The tables for a terminal; comparison.md has more columns."""
        own = own_bytes_of(self.results[0].folder)
        title = f"Accuracy of {tested(self.lines)} test samples"
        title += f"; all training samples once: {said_of(own)}" if own else ""
        shown = [tables.Fitted(self.rows, self._terminal_columns, title)]
        if self.in_world:
            shown.append(tables.Fitted(self.rows, WORLD_COLUMNS, "In the job's world"))
        columns = columns_of(self.protocols, self.rows)
        title = "Highest accuracy within a budget, and what an accuracy costs"
        shown.append(tables.Fitted(protocol_rows(self.rows), columns, title))
        robust = drop_out_rows(self.lines)
        if robust:
            title = "Accuracy without and with devices that drop out"
            shown.append(tables.Fitted(robust, drop_outs.COLUMNS, title))
        differences = differences_of(self.lines)
        if differences:
            title = f"Accuracy against {self.labels[0]}, seed by seed, with 95 % confidence"
            shown.append(tables.Fitted(differences, DIFFERENCE_COLUMNS, title))
        return shown

    @property
    def _terminal_columns(self) -> list[Column]:
        """The columns that a terminal and a notebook show."""
        return [c for c in COLUMNS if c.key not in {"through_cut", *FORMATS}]

    @property
    def in_world(self) -> bool:
        """Whether any run has seconds and joules of a world."""
        return any(result.job.world is not None for result in self.results)

    @property
    def calibrated(self) -> bool:
        """Whether an allocator of the comparison goes by a calibration."""
        solvers = {result.job.method.allocation.solver for result in self.results}
        return "auto" in solvers

    def markdown(self) -> str:
        """The text of comparison.md."""
        notes = NOTES.format(tested=tested(self.lines))
        own = own_bytes_of(self.results[0].folder)
        columns = [c for c in COLUMNS if c.key not in FORMATS or c.key in own]
        said = f"{self.finding}\n\n" if self.finding else ""
        text = f"# Comparison\n\n{said}{tables.markdown(self.rows, columns)}\n{notes}"
        differences = differences_of(self.lines)
        if differences:
            text += f"\n## Against {self.labels[0]}\n\n"
            text += f"{tables.markdown(differences, DIFFERENCE_COLUMNS)}\n"
            text += DIFFERENCE_NOTES.format(reference=self.labels[0])
        text += "\n## Within a budget, and to an accuracy\n\n"
        text += (
            f"{tables.markdown(protocol_rows(self.rows), columns_of(self.protocols, self.rows))}\n"
        )
        text += PROTOCOL_NOTES
        robust = drop_out_rows(self.lines)
        if robust:
            text += "\n## With devices that drop out\n\n"
            text += f"{tables.markdown(robust, drop_outs.COLUMNS)}\n{drop_outs.NOTES}"
        if self.in_world:
            text += f"\n## In the job's world\n\n{tables.markdown(self.rows, WORLD_COLUMNS)}\n"
            text += WORLD_NOTES
            if self.calibrated:
                text += CALIBRATION_NOTES
        return text

    def where(self) -> list[str]:
        """The paths of what was written, one line each."""
        lines = [f"table    {self.folder / 'comparison.md'}"]
        lines += [f"figure   {path}" for path in sorted((self.folder / "figures").iterdir())]
        for line in self.lines:
            for result in line.results:
                seed = f", seed {result.job.seed}" if len(line.results) > 1 else ""
                lines.append(f"adapter  {result.adapter_folder}  ({line.label}{seed})")
        return [*lines, f"see it   cutlayer report {self.folder}"]


def tested(lines: Sequence[Line]) -> str:
    """The size of the test set, for people; of several where jobs have several."""
    sizes = sorted({result.tests for line in lines for result in line.results})
    return " or ".join(f"{size:,}" for size in sizes)


def rows_of(lines: Sequence[Line], protocols: Protocols) -> list[dict[str, Any]]:
    """A row of the tables for each line; protocols: settled."""
    plain = methods.find_method("sflora")
    base = next((line for line in lines if line.results[0].job.method == plain), None)
    totals = {r.job.seed: r.up_bytes + r.down_bytes for r in base.results} if base else {}
    rows = []
    for line in lines:
        seeds = [_row(result, totals.get(result.job.seed), protocols) for result in line.results]
        several = {key: [row[key] for row in seeds] for key in seeds[0]}
        rows.append({"method": line.label, **(several if len(seeds) > 1 else seeds[0])})
    return rows


def differences_of(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Of each line but the first, the mean difference of its accuracy from the first's.

    None are given without two seeds that both ran.
    """
    rows = []
    for line in lines[1:]:
        found = paired_interval(line.accuracy, lines[0].accuracy)
        if found is not None:
            difference, low, high = found
            both = len(line.accuracy.keys() & lines[0].accuracy.keys())
            rows.append(
                {
                    "method": line.label,
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "seeds": both,
                }
            )
    return rows


def _row(result: Result, reference: int | None, protocols: Protocols) -> dict[str, Any]:
    rounds, total = len(result.rows), result.up_bytes + result.down_bytes
    own = own_bytes_of(result.folder)
    costs = round_costs(result.job, describe(result.job.model), result.rows)
    return {
        "accuracy": result.accuracy,
        "through_cut": result.rows[-1].accuracy_through_cut,
        "up": result.up_bytes / rounds,
        "down": result.down_bytes / rounds,
        "total": total,
        "ratio": reference / total if reference and total else None,
        **{name: total / own[name] if name in own else None for name in FORMATS},
        "memory": costs.device_memory_bytes,
        "device_flops": costs.device_flops,
        "server_flops": costs.server_flops,
        **measure(result, protocols),
        **_in_world(result),
    }


def _in_world(result: Result) -> dict[str, Any]:
    """Virtual seconds and joules of a run; None where the job has no world."""
    seconds = [row.virtual_s for row in result.rows if row.virtual_s is not None]
    if not seconds:
        return dict.fromkeys(column.key for column in WORLD_COLUMNS if column.key != "method")
    efficiency = [row.ste for row in result.rows if row.ste is not None]
    return {
        "virtual_s": mean(seconds),
        "total_s": sum(seconds),
        "joules": mean(sum(row.joules.values()) for row in result.rows),
        "ste": mean(efficiency) if efficiency else None,
        "dropped": sum(len(r.left_out) + len(r.late) + len(r.lost) for r in result.rows),
    }
