"""Training of our own diffusion model: batches, checkpoints, exact resume and sample sheets.

A step depends only on the seed and the step's number, so a run that was killed and resumed ends
with the same weights as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as packed
from torch import Tensor, nn

from cutlayer.data import diffusion
from cutlayer.data.dataset import Dataset, Indices
from cutlayer.data.diffusion import Diffusion
from cutlayer.data.sources import load
from cutlayer.drawing.sheets import sheet
from cutlayer.errors import DataError, JobError, RunError
from cutlayer.files import write_atomically
from cutlayer.job import Job, dump_job, load_job
from cutlayer.seeds import numpy_rng, torch_rng
from cutlayer.settings.generator import GeneratorTraining
from cutlayer.train.compute import find_compute

JOB = "job.yaml"
TRAINING = "training.yaml"
LOSSES = "losses.jsonl"
STATE = "state.safetensors"
SHEET_COLUMNS = 10
LOG_EVERY = 50


@dataclass
class Trainer:
    """A model in training: what a checkpoint holds, and the data it learns from."""

    model: Diffusion
    unet: nn.Module
    data: Dataset
    settings: GeneratorTraining
    seed: int
    step: int = 0
    average: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights: dict[str, Tensor] = dict(self.unet.named_parameters())
        self.average = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=self.settings.lr, weight_decay=self.settings.weight_decay
        )

    def advance(self) -> float:
        """Take one step and return its loss."""
        settings = self.settings
        rows = torch.from_numpy(
            batch_rows(len(self.data), settings.batch_size, self.step, self.seed)
        )
        device = next(self.unet.parameters()).device
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * rate(self.step, settings)
        assert isinstance(self.data.inputs, Tensor)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            loss = diffusion.loss(
                self.unet,
                self.model,
                self.data.inputs[rows],
                torch.from_numpy(self.data.labels)[rows],
                settings.drop_label,
                torch_rng(self.seed, "generator", "step", self.step),
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            diffusion.moving_average(
                list(self.average.values()),
                list(self.weights.values()),
                settings.average,
                self.step,
            )
        return float(loss.detach())

    def state(self) -> bytes:
        """All that the next step depends on, as safetensors."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.items()}
        tensors |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        for name, tensor in self.weights.items():
            tensors |= {
                f"{key}/{name}": value for key, value in self.optimizer.state[tensor].items()
            }
        whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        content: bytes = packed(whole, metadata={"format": "pt"})
        return content

    def restore(self, path: Path) -> None:
        """Continue from a saved state. Raises RunError when there is none or it is damaged."""
        try:
            tensors = load_file(path)
            with torch.no_grad():
                for name, parameter in self.weights.items():
                    parameter.copy_(tensors[f"weights/{name}"])
                    self.average[name].copy_(tensors[f"average/{name}"])
                    self.optimizer.state[parameter] = {
                        key: tensors[f"{key}/{name}"].to(
                            "cpu" if key == "step" else parameter.device
                        )
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
            self.step = int(tensors[f"step/{next(iter(self.weights))}"])
        except FileNotFoundError:
            raise RunError(
                f"--resume: {path.parent} has no checkpoint to resume from: "
                "start it again without --resume"
            ) from None
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise RunError(
                f"--resume: {path} is damaged ({error}): start the training again in a new folder"
            ) from None


def rate(step: int, settings: GeneratorTraining) -> float:
    """The learning rate at `step` as a share of the highest: rises linearly, falls as a cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return min(1.0, (step + 1) / settings.warmup) * cosine


def batch_rows(count: int, batch: int, step: int, seed: int) -> Indices:
    """The indices of a step's samples, out of consecutive reshuffled passes over all `count`."""
    places = np.arange(step * batch, (step + 1) * batch)
    passes = {
        int(number): numpy_rng(seed, "generator", "pass", int(number)).permutation(count)
        for number in np.unique(places // count)
    }
    rows = [passes[place // count][place % count] for place in places.tolist()]
    return np.array(rows, dtype=np.int64)


Say = Callable[[str], None]
Tick = Callable[[int, int, float], None]


def train_generator(
    job: Job,
    settings: GeneratorTraining,
    out: Path,
    say: Say = lambda line: None,
    tick: Tick = lambda step, steps, loss: None,
) -> Path:
    """Train on the training images of `job.data` (seed: `job.seed`); returns the folder `out`.

    say(line): called with a line to show. tick(step, steps, loss): called after each step.
    Raises DataError for data that are not images or cannot be folded, RunError for the folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(
            f"--out: {out} is not empty: give a new folder, or go on with the training in it with "
            f"cutlayer generator train --resume {out}"
        )
    data, _ = load(job.data, job.seed)
    if data.report is not None:
        say(data.report.line)
    trainer = new_trainer(data, settings, job.seed)
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / JOB, dump_job(job).encode())
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
        write_atomically(out / TRAINING, text.encode())
    return _run(trainer, out, say, tick)


def resume_generator(
    out: Path,
    say: Say = lambda line: None,
    tick: Tick = lambda step, steps, loss: None,
) -> Path:
    """Continue the training in `out` after its last checkpoint. Raises RunError, DataError."""
    if not (out / TRAINING).is_file() or not (out / JOB).is_file():
        raise RunError(f"--resume: {out} holds no training of a generator: start one with --out")
    job = load_job(out / JOB)
    settings = read_training(out / TRAINING)
    data, _ = load(job.data, job.seed)
    trainer = new_trainer(data, settings, job.seed)
    trainer.restore(out / STATE)
    return _run(trainer, out, say, tick)


def read_training(path: Path) -> GeneratorTraining:
    """Settings from YAML. Raises JobError with one sentence for the first fault."""
    try:
        return GeneratorTraining.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise JobError(
            f"{path} holds no settings of a generator's training ({str(error).splitlines()[0]}): "
            "start the training again in a new folder"
        ) from None


def new_trainer(data: Dataset, settings: GeneratorTraining, seed: int) -> Trainer:
    """A trainer with a model of random weights that fits `data`. Raises DataError if none fits."""
    if not isinstance(data.inputs, Tensor):
        raise DataError("the generator draws images, but the data are texts: name data of images")
    channels, size = diffusion.shape_of(data.inputs)
    fold = settings.fold or diffusion.own_fold(size)
    model = Diffusion(data.classes, size, channels, fold, settings.widths, settings.blocks)
    device = find_compute(settings.compute, "compute")
    with torch.random.fork_rng():
        torch.manual_seed(torch_rng(seed, "generator", "weights").initial_seed())
        unet = diffusion.build(model)
    return Trainer(model, unet.to(device), data, settings, seed)


def _run(trainer: Trainer, out: Path, say: Say, tick: Tick) -> Path:
    settings = trainer.settings
    log = [row for row in _losses(out / LOSSES) if row["step"] <= trainer.step]
    parameters = sum(tensor.numel() for tensor in trainer.weights.values())
    on = f", going on after step {trainer.step}" if trainer.step else ""
    say(f"{parameters:,} parameters, {len(trainer.data):,} images{on}; folder {out}")
    losses: list[float] = []
    start = time.perf_counter()
    while trainer.step < settings.steps:
        losses.append(trainer.advance())
        tick(trainer.step, settings.steps, losses[-1])
        last = trainer.step == settings.steps
        if trainer.step % LOG_EVERY == 0 or last:
            spent = time.perf_counter() - start
            row = {
                "step": trainer.step,
                "loss": round(sum(losses) / len(losses), 5),
                "seconds_per_step": round(spent / len(losses), 4),
            }
            if not math.isfinite(row["loss"]):
                raise RunError(
                    f"lr={settings.lr}: the loss is not a number at step {trainer.step}: take a "
                    "smaller lr or a longer warmup"
                )
            log.append(row)
            say(
                f"  step {row['step']:>6}/{settings.steps}  loss {row['loss']:.4f}"
                f"  {row['seconds_per_step']:.2f} s a step"
            )
            losses, start = [], time.perf_counter()
        with _writing(out):
            if trainer.step % settings.sheet_every == 0 or last:
                path = out / "sheets" / f"step-{trainer.step:06d}.png"
                draw_sheet(trainer, path)
                say(f"  samples {path}")
            if trainer.step % settings.checkpoint_every == 0 or last:
                diffusion.save(out, trainer.model, trainer.average)
                lines = "".join(json.dumps(row) + "\n" for row in log)
                write_atomically(out / LOSSES, lines.encode())
                write_atomically(out / STATE, trainer.state())
    return out


def draw_sheet(trainer: Trainer, path: Path) -> None:
    """Write a sheet of images drawn with the averaged weights, always from the same noise."""
    model, unet = trainer.model, trainer.unet
    count = len(model.classes)
    labels = torch.arange(count).repeat_interleave(SHEET_COLUMNS)
    noise = torch.randn(
        len(labels), *model.folded, generator=torch_rng(trainer.seed, "generator", "sheet")
    )
    with torch.no_grad(), _weights(trainer.weights, trainer.average):
        images = torch.cat(
            [
                diffusion.draw(unet, model, some, start, model.steps, model.guidance)
                for some, start in zip(torch.split(labels, 32), torch.split(noise, 32), strict=True)
            ]
        )
    panel = images.numpy().reshape(count, SHEET_COLUMNS, *images.shape[1:])
    path.parent.mkdir(exist_ok=True)
    sheet({f"step {trainer.step}, guidance {model.guidance:g}": panel}, model.classes, path)


@contextmanager
def _weights(own: dict[str, Tensor], lent: dict[str, Tensor]) -> Iterator[None]:
    """Let `own` hold the values of `lent` inside the `with` block."""
    kept = {name: tensor.detach().clone() for name, tensor in own.items()}
    for name, tensor in own.items():
        tensor.copy_(lent[name])
    try:
        yield
    finally:
        for name, tensor in own.items():
            tensor.copy_(kept[name])


def _losses(path: Path) -> list[dict[str, float]]:
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.is_file()
        else []
    )


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"--out: cannot write in {out} ({error.strerror or error}): free some space or give "
            "another folder"
        ) from None
