"""The commands that use what a run trained: parse, call, print."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cutlayer.commands.console import say

app = typer.Typer()

PANEL = "Use what was trained"

Run = Annotated[Path, typer.Argument(help="The folder of a finished run.")]
ThroughCut = Annotated[
    bool,
    typer.Option(
        "--through-cut",
        help="With the tokens and bits that crossed the cut, not as one unsplit model.",
    ),
]
Device = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Whose adapter, where each device keeps its own."),
]


class Format(StrEnum):
    """How predictions are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@app.command(rich_help_panel=PANEL)
def evaluate(
    run: Run,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled samples: a folder of images a class, or tables; else the test set."
        ),
    ] = None,
    through_cut: ThroughCut = False,
    device: Device = None,
    texts: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Let a language model answer N prompts too: BLEU, ROUGE-L, equal to a reference.",
        ),
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="A JSON file for all figures.")] = None,
) -> None:
    """Test a run's model on its test set or on other samples: accuracy, F1, class by class."""
    from cutlayer.inference.evaluate_run import evaluate as test

    found = test(run, data=data, through_cut=through_cut, device=device, texts=texts, out=out)
    for line in found.sentences():
        say(line)
    if out:
        say(f"figures  {out}")


@app.command(rich_help_panel=PANEL)
def predict(
    run: Run,
    files: Annotated[
        list[Path],
        typer.Argument(help="Images or folders of images; texts in files of one text a line."),
    ],
    through_cut: ThroughCut = False,
    device: Device = None,
    format: Annotated[Format, typer.Option(help="How to print, or to write.")] = Format.TABLE,
    out: Annotated[
        Path | None, typer.Option(help="A file instead of the console, .csv or .json.")
    ] = None,
) -> None:
    """Ask a run's model about files: the class of each, with the probability of every class."""
    from cutlayer.errors import RunError
    from cutlayer.inference.evaluate_run import write_out
    from cutlayer.inference.predict import predict as ask
    from cutlayer.inference.predict import to_csv, to_json

    if out is not None and format is Format.TABLE:
        if out.suffix.lower() not in (".csv", ".json"):
            raise RunError(f"--out: {out} ends neither in .csv nor in .json: name it so")
        format = Format(out.suffix.lower()[1:])
    found = ask(run, files=files, through_cut=through_cut, device=device)
    if format is Format.TABLE:
        width = max(len(one.label) for one in found)
        for one in found:
            say(f"{one.label:<{width}}  {100 * one.probability:5.1f} %  {one.sample}")
        return
    text = to_csv(found) if format is Format.CSV else to_json(found)
    if out is None:
        sys.stdout.write(text)
    else:
        write_out(out, text)
        say(f"written  {out}  ({len(found):,} samples)")


@app.command(rich_help_panel=PANEL)
def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help="What to go on from.")],
    most: Annotated[int, typer.Option(min=1, help="Tokens to say at most.")] = 64,
    chat: Annotated[
        bool, typer.Option("--chat", help="As a user's turn, by the tokenizer's chat template.")
    ] = False,
    device: Device = None,
) -> None:
    """Let a run's language model go on from a prompt."""
    from cutlayer.inference.generate import generate as go_on

    found = go_on(run, prompt=prompt, most=most, chat=chat, device=device)
    say(found.text)
    if not found.whole:
        say(f"(cut off after {found.tokens} tokens: --most allows more)")


class Numbers(StrEnum):
    """Numbers in which a device's program computes."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


@app.command("export-device", rich_help_panel=PANEL)
def export_device(
    source: Annotated[Path, typer.Argument(help="A run folder, or a YAML job.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    cut: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Blocks of the part; else the job's.")
    ] = None,
    precision: Annotated[
        Numbers, typer.Option(help="Numbers in which it computes.")
    ] = Numbers.FLOAT32,
) -> None:
    """Write the device's part of a job as an ONNX graph, with an example that runs it."""
    from cutlayer.inference.export_device import export_device as write

    found = write(source, out=out, cut=cut, precision=precision.value)
    for name, size in found.files.items():
        say(f"written  {found.folder / name}  ({size / 1e6:.2f} MB)")


@app.command(rich_help_panel=PANEL)
def export(
    run: Run,
    out: Annotated[Path, typer.Option(help="A new folder.")],
    merged: Annotated[
        bool,
        typer.Option("--merged", help="One whole model, not the adapter beside its base model."),
    ] = False,
    device: Device = None,
) -> None:
    """Write what a run trained for other programs: the adapter, or the whole model."""
    from cutlayer.inference.export_run import export as write

    found = write(run, out=out, merged=merged, device=device)
    say(f"written  {found.folder}")
    say(f"load it  {found.loads_by}")
