"""The commands `cutlayer generator ...`: parse, call, print."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutlayer.commands.console import console, fail, say
from cutlayer.errors import RunError

if TYPE_CHECKING:
    from rich.progress import Progress

app = typer.Typer(no_args_is_help=True, help="Train and judge generators of labelled images.")

JobFile = Annotated[Path | None, typer.Argument(help="A YAML job, for its data, model and seed.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting of the job, as in seed=1.")
]
_DATA = (
    "Images with labels: a parquet file or a folder of them, a folder with one subfolder a class, "
    "or demo. Short for --set data.source=... and data.path=..."
)


@app.command()
def train(
    job: JobFile = None,
    settings: Settings = None,
    data: Annotated[str | None, typer.Option(help=_DATA)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the generator.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of training.", min=1)] = None,
    training: Annotated[
        list[str] | None,
        typer.Option("--training", help="A setting of the training, as in 'widths=[128, 256]'."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the training in this folder, without the rest.")
    ] = None,
) -> None:
    """Train our own small diffusion model on public images, with sample sheets as it learns."""
    from cutlayer.generation import settings as named
    from cutlayer.generation.train import resume_generator, train_generator
    from cutlayer.job import load_job

    if resume and (job or settings or data or out or steps or training):
        raise RunError("--resume: the folder holds its settings: leave out everything else")
    if not resume and not out:
        raise RunError("--out: name a folder for the generator, or --resume one")
    folder = resume or out
    assert folder is not None
    with _watched(folder) as bar:
        task = bar.add_task("training", total=None)

        def tick(step: int, steps: int, loss: float) -> None:
            bar.update(
                task,
                completed=step,
                total=steps,
                description=f"step {step}/{steps}  loss {loss:.3f}",
            )

        if resume:
            resume_generator(resume, say, tick)
        else:
            chosen = load_job(job, [*(settings or []), *named.data(data)])
            words = [*(training or []), *([f"steps={steps}"] if steps else [])]
            train_generator(chosen, named.training(words), folder, say, tick)
    say(f"generator  {folder}")
    say(f"judge it   cutlayer generator evaluate --generator {folder}")


@app.command()
def evaluate(
    job: JobFile = None,
    settings: Settings = None,
    data: Annotated[str | None, typer.Option(help=_DATA)] = None,
    generator: Annotated[
        list[str] | None,
        typer.Option(
            help="The generator: demo, a folder of `generator train`, a diffusers pipeline (folder "
            "or hub name) or a folder of images; again for a setting, as in guidance=2 or "
            "'prompts.cat=a photo of a cat'."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of evaluation.json and sheet.png.")] = Path(
        "generator-evaluation"
    ),
    per_class: Annotated[int, typer.Option(help="Images of each class.", min=2)] = 100,
    trained_on: Annotated[
        str | None,
        typer.Option(help="The images that the generator learned from, named as in --data."),
    ] = None,
) -> None:
    """Judge generated images: right classes, near the real ones, not copies of them."""
    from cutlayer.generation import settings as named
    from cutlayer.generation.evaluate import evaluate_generator
    from cutlayer.job import load_job

    chosen = load_job(job, [*(settings or []), *named.data(data)])
    source = named.generator(generator or ["demo"])
    learned = load_job(None, named.data(trained_on)) if trained_on else None
    found = evaluate_generator(chosen, source, out, per_class, learned, say)
    for table in found.tables():
        console.print(table)
    for line in found.notes():
        say(line)
    say(f"figures  {out / 'evaluation.json'}")
    say(f"sheet    {out / 'sheet.png'}")


@contextmanager
def _watched(folder: Path) -> Iterator[Progress]:
    """A live bar in a terminal; an interrupted training says how to go on with it."""
    from cutlayer.drawing.progress_bar import make_bar

    with make_bar(console) as bar:
        try:
            yield bar
        except KeyboardInterrupt:
            bar.stop()
            fail(f"stopped; go on with: cutlayer generator train --resume {folder}", status=130)
