"""Any `diffusers` pipeline as a source of images: class-conditional, or text-to-image.

Weights are read from safetensors only, and no code that comes with a checkpoint is run.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutlayer.data.diffusion import diffusers, shape_of
from cutlayer.data.image_generator import Draw, Shape, Wanted
from cutlayer.errors import DataError
from cutlayer.settings.generator import GeneratorSettings as Settings

_TRIAL_STEPS = 2


def open_pipeline(
    settings: Settings, classes: tuple[str, ...], device: torch.device | str = "cpu"
) -> tuple[Draw, Shape]:
    """A function that draws with the pipeline at `settings.path`, and the shape it draws.

    Each image begins as noise of its own. A scheduler that draws further noise from torch's global
    generator is seeded by the first image of the batch. Raises DataError when the pipeline cannot
    be loaded, takes neither labels nor prompts, or lacks a class.
    """
    pipeline = _load(settings).to(device)
    accepted = set(inspect.signature(pipeline.__call__).parameters)
    conditions: Sequence[int | str]
    if "class_labels" in accepted:
        field, conditions = "class_labels", _label_numbers(settings, classes, pipeline)
    elif "prompt" in accepted:
        field, conditions = "prompt", _prompts(settings, classes)
    else:
        raise DataError(
            f"generator.path={settings.path!r} is a {type(pipeline).__name__}, which takes neither "
            "class labels nor prompts: take a class-conditional or a text-to-image pipeline"
        )
    options: dict[str, Any] = {}
    if settings.steps is not None:
        options["num_inference_steps"] = settings.steps
    if settings.guidance is not None and "guidance_scale" in accepted:
        options["guidance_scale"] = settings.guidance

    def draw_with(wanted: Sequence[Wanted], **options: Any) -> Tensor:
        seeds = [one.derived(classes[one.label]) for one in wanted]
        with torch.random.fork_rng():
            torch.manual_seed(seeds[0])
            out = pipeline(
                **{field: [conditions[one.label] for one in wanted]},
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="np",
                **options,
            )
        _refuse_blanks(out, wanted, classes)
        pixels = np.rint(np.asarray(out.images) * 255).clip(0, 255).astype(np.uint8)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))

    def draw(wanted: Sequence[Wanted]) -> Tensor:
        return draw_with(wanted, **options)

    trial = draw_with([Wanted(0, 0, 0)], **{**options, "num_inference_steps": _TRIAL_STEPS})
    return draw, shape_of(trial)


def _load(settings: Settings) -> Any:
    package = diffusers()
    try:
        with _quiet(package):
            pipeline = package.DiffusionPipeline.from_pretrained(
                settings.path, use_safetensors=True
            )
    except Exception as error:  # the package raises a dozen unrelated types
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"generator.path={settings.path!r} cannot be loaded as a diffusers pipeline with "
            f"safetensors weights ({cause}): name the folder or the hub name of one"
        ) from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def _quiet(package: ModuleType) -> Iterator[None]:
    """Switches off the libraries' progress bars and hints while they load."""
    from transformers.utils import logging

    both = (logging, package.utils.logging)
    levels = [library.get_verbosity() for library in both]
    for library in both:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(both, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()


def _prompts(settings: Settings, classes: tuple[str, ...]) -> list[str]:
    """A prompt for each class; a class that is named by a number needs one in the settings."""
    for name in classes:
        if name in settings.prompts:
            continue
        if settings.prompts:
            raise DataError(_no_prompt(name, "generator.prompts names other classes"))
        if name.lstrip("-").isdigit():
            raise DataError(_no_prompt(name, "its name is a number, which describes no picture"))
    return [settings.prompts.get(name) or settings.template.format(name) for name in classes]


def _label_numbers(settings: Settings, classes: tuple[str, ...], pipeline: Any) -> list[int]:
    """The pipeline's own number of each class, found by name or by a number in `prompts`."""
    known: dict[str, int] = getattr(pipeline, "labels", None) or {}
    numbers = []
    for name in classes:
        called = settings.prompts.get(name, name)
        if called in known:
            numbers.append(known[called])
        elif name in settings.prompts and called.isdigit():
            numbers.append(int(called))
        else:
            raise DataError(_no_prompt(name, f"the pipeline knows no class called {called!r}"))
    return numbers


def _no_prompt(name: str, why: str) -> str:
    return (
        f"class {name!r} has no prompt ({why}): say in generator.prompts what to ask for, as in "
        f"{{{name!r}: a photo of ...}} (the name or number of a class-conditional pipeline's class)"
    )


def _refuse_blanks(out: Any, wanted: Sequence[Wanted], classes: tuple[str, ...]) -> None:
    """Raise DataError if a safety checker painted an image black, which cannot be trained on."""
    flags = getattr(out, "nsfw_content_detected", None) or []
    for one, flagged in zip(wanted, flags, strict=False):
        if flagged:
            raise DataError(
                f"class {classes[one.label]!r}: the pipeline's safety checker blacked an image "
                "out: change generator.prompts"
            )
