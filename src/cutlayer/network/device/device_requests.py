"""What a device of a network computes when its server asks for it: frames in, frames out."""

import math
from pathlib import Path

from cutlayer.allocate.decision import Decision
from cutlayer.data.device_data import load_folder, load_share
from cutlayer.errors import JobError, RefusedError, RunError
from cutlayer.job import Job, parse_job
from cutlayer.model.inputs import Preprocessor
from cutlayer.model.weights import load_model
from cutlayer.network.part_files import part_of
from cutlayer.network.transport.messages import Probe, Probed, RoundBegin, Task
from cutlayer.plain_yaml import parse_yaml
from cutlayer.train.activation_statistics import measure
from cutlayer.train.device import Device
from cutlayer.train.noise import with_label_noise
from cutlayer.train.opening import Opening
from cutlayer.train.parts import place_model
from cutlayer.wire.adapter_frames import encode_adapter
from cutlayer.wire.messages import AdapterMessage


def read_job(text: str) -> Job:
    """The job that a server sent, read without loading any code that it names.

    Raises RefusedError.
    """
    try:
        job = parse_job(parse_yaml(text))
    except (ValueError, JobError) as error:
        raise RefusedError(
            f"task: the server's job cannot be read ({error}): upgrade cutlayer on this device to "
            "the server's version"
        ) from None
    for setting, value in job.method.code_on_devices.items():
        raise RefusedError(
            f"task: the server's job names {value!r} as {setting}, and a device runs no code that "
            "a server names: take one of the built-in ones"
        )
    return job


def make_device(job: Job, task: Task, part: Path, data: Path | None) -> Device:
    """The device that a task describes, with its part of the model in the folder `part`.

    data: samples of its own; None: those that its number has in a simulation. Raises DataError,
    ModelError, and RefusedError for a number that the job does not have.
    """
    if task.number >= job.devices.count:
        raise RefusedError(
            f"task: the server makes this device number {task.number} of a job of "
            f"{job.devices.count}, counted from 0: run the same cutlayer on both sides"
        )
    training = job.training.model_copy(update={"compute": "auto"})
    job = job.model_copy(update={"training": training})
    held = {"path": str(part), "weights": "pretrained", "cut": task.cut}
    model = load_model(
        job.model.model_copy(update=held),
        len(task.classes),
        job.seed,
        part_of(job),
        train=job.method.train,
    )
    place_model(job, model)
    preprocess = Preprocessor(model.spec, model.compute)
    if data is not None:
        samples = load_folder(data, job, tuple(task.classes), preprocess.fit)
    else:
        samples = load_share(job, task.number, preprocess.fit)
    if model.spec.parts.language or samples.has_passages:
        preprocess.check(samples.inputs)
    samples = with_label_noise(samples, job, task.number)
    return Device(task.number, samples, job, model, preprocess)


def begin(device: Device, message: RoundBegin, opening: Opening) -> None:
    """Start a round as the server decided it. Raises RunError where device and server disagree on
    the number of steps, RefusedError for numbers other than float32.
    """
    if message.precision != "float32":
        raise RefusedError(
            f"round: the server asks for {message.precision}, but a device with torch computes in "
            "float32: run the same cutlayer on both sides"
        )
    decision = Decision(
        message.cut,
        message.tokens,
        message.bits_up,
        message.bits_down,
        message.bandwidth_hz,
        message.power_w,
        message.rate_bits,
    )
    if opening.adapter is None:
        device.adapter = {}  # this round does not train the tensors of an earlier round
    device.samples_a_round = message.samples
    device.coding.begin(opening)
    device.begin(message.round, decision, opening.adapter)
    if device.steps != message.steps:
        raise RunError(
            f"training: the server counts {message.steps} steps a round but this device "
            f"{device.steps}: run the same cutlayer on both sides"
        )


def upload(device: Device) -> bytes:
    """The frame of the adapter that the device trained in the round."""
    if device.job.method.aggregate == "none":  # the server keeps it for the device unchanged
        return encode_adapter(AdapterMessage(device.id, device.round, 0, device.adapter), 32)
    return device.upload()


def probe(device: Device, asked: Probe) -> Probed:
    """Statistics of the device's activations, which the server's allocator asked for."""
    (found,) = measure([device], asked.round, asked.cut, asked.scored)
    curve = None if found.importance is None else found.importance.tolist()
    spread = found.spread if math.isfinite(found.spread) else 0.0
    return Probed(asked.round, asked.cut, spread, found.mean_square, curve)
