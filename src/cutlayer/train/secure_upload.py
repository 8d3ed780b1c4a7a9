"""Uploads of which the server learns only the sum: the secure sum, done over a link."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cutlayer.errors import CutlayerError, FrameError
from cutlayer.model.lora import Adapter
from cutlayer.train.changes import adapter_of
from cutlayer.train.link import Link

QUESTIONS = 4
"""The questions that a device answers in a sum (see secure_sum/messages.py)."""


@dataclass
class SummedUpload:
    """The mean change of the devices in a sum, and its traffic.

    change: None if too few devices were left; `why` then says so. devices: those in the sum.
    faults: the errors of devices whose answers were not sound; silent: devices without an answer.
    down, up: bytes of frames by device.
    """

    change: Adapter | None = None
    why: CutlayerError | None = None
    devices: list[int] = field(default_factory=list)
    faults: dict[int, FrameError] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    down: dict[int, int] = field(default_factory=dict)
    up: dict[int, int] = field(default_factory=dict)


def sum_uploads(
    link: Link, round: int, weights: Mapping[int, int], due: Adapter, quorum: float
) -> SummedUpload:
    """Sum up the devices' changes, each times its weight. due: the tensors that devices train."""
    # An extra installs the package `cryptography`; only jobs with secure sums need it.
    from cutlayer.secure_sum.server import SumServer

    values = sum(math.prod(tensor.shape) for tensor in due.values())
    server = SumServer(round, weights, values, quorum)
    done = SummedUpload(faults=server.faults)

    def ask(frames: Mapping[int, bytes]) -> dict[int, bytes]:
        answers = link.ask(frames)
        _count(done.down, {device: frames[device] for device in frames})
        _count(done.up, answers)
        done.silent |= frames.keys() - answers.keys()
        return answers

    try:
        answers = ask(server.begin())
        answers = ask(server.roster(answers))
        answers = ask(server.delivery(answers))
        answers = ask(server.ask_survivors(answers))
        total = server.total(answers)
    except FrameError as fault:
        done.why = fault
        return done
    done.devices = server.survivors
    done.change = adapter_of(server.mean(total), due)
    return done


def _count(counts: dict[int, int], frames: Mapping[int, bytes]) -> None:
    for device, frame in frames.items():
        counts[device] = counts.get(device, 0) + len(frame)
