"""The verb `export`: writes what a run trained for programs without this package."""

from dataclasses import dataclass
from pathlib import Path

from cutlayer.errors import RunError
from cutlayer.inference.trained import load_trained
from cutlayer.model.export import save_adapter, save_whole
from cutlayer.model.merge import auto_class, merge


@dataclass(frozen=True)
class Exported:
    """The folder that was written, and one line that says how other programs load it.

    folder: what was written. loads_by: the line.
    """

    folder: Path
    loads_by: str


def export(
    run: str | Path, *, out: str | Path, merged: bool = False, device: int | None = None
) -> Exported:
    """Write what the run in folder `run` trained, and the names of its classes, into folder `out`.

    merged: write the whole model with the adapter merged in, as a checkpoint in Hugging Face's
    layout that transformers loads; else only the adapter, in PEFT's format. A run that trained
    every weight always gives a whole model. An adapter that was trained on weights in few bits is
    merged into the checkpoint's own weights. device: see `evaluate`.
    Raises RunError, JobError or ModelError, each with one sentence.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"--out: {folder} holds something already: give a new folder")
    trained = load_trained(run, device, whole_weights=True)
    model, classes = trained.model, trained.classes
    whole = merged or model.train == "full"
    try:
        if merged and model.train == "lora":
            save_whole(merge(trained.adapter, model), model.spec, folder, classes)
        else:
            save_adapter(trained.adapter, model, folder, classes)
    except OSError as error:
        raise RunError(
            f"--out: cannot write {folder} ({error.strerror or error}): give another folder"
        ) from None
    if not whole:
        return Exported(folder, f"peft.PeftModel.from_pretrained(base, {str(folder)!r})")
    auto = auto_class(model.spec)
    if auto is not None:
        return Exported(folder, f"transformers.{auto}.from_pretrained({str(folder)!r})")
    return Exported(
        folder,
        f"--set model.path={folder} --set model.adapter={folder} --set method.train=full "
        f"(transformers has no class of its own for {model.spec.parts.architecture})",
    )
