"""Control messages: they survive, have bounds, and anything else is one error."""

import random
import tracemalloc

import msgspec
import pytest

from cutlayer.errors import NetworkError
from cutlayer.light.job import LightJob, Uplink
from cutlayer.network.transport import messages
from cutlayer.network.transport.messages import (
    Bye,
    DeviceProgram,
    Done,
    Fetch,
    Hello,
    LightTask,
    Message,
    PartFile,
    Ping,
    Pong,
    Probe,
    Probed,
    Ready,
    RoundBegin,
    RoundEnd,
    StepDone,
    Task,
    Welcome,
)
from cutlayer.wire.program_ports import Coding, ProgramKey

WEIGHTS = PartFile("weights.bin", 7, "cd")
UPLINK = Uplink("klt", "uniform", "token", False, True, True, 0.5, 0.5)
LIGHT = LightJob(1, 8, 1, 1, 49, 128, UPLINK, True, "float32")
GRAPHS = (PartFile("0.onnx", 7, "cd"), PartFile("1.onnx", 8, "ef"))
PROGRAM = DeviceProgram(*GRAPHS, ProgramKey(2, Coding("basis")))
PRECISE = DeviceProgram(*GRAPHS, ProgramKey(1, Coding("basis")), PartFile("int8.bin", 7, "ab"))
HELLO = Hello(
    version="0.1.0",
    job="0f" * 32,
    samples=600,
    device="cam-1",
    processor="Cortex-A76",
    cores=4,
    memory_bytes=2**33,
    flops_per_s=5e9,
)
EXAMPLES: list[Message] = [
    HELLO,
    Welcome("ab12"),
    Task(3, "seed: 1", "ab", ["cat", "dog"], 2, [PartFile("config.json", 7, "cd")]),
    LightTask(3, LIGHT, "ab", ["cat", "dog"], "weights.bin", [WEIGHTS], PROGRAM),
    Fetch("model.safetensors", 4096),
    Ready("ab", 31, labels=[1, 2]),
    Probe(3, 2, scored=True),
    Probed(3, 2, 1.5, 0.25, [0.0, 0.5, 1.0]),
    Done(),
    RoundBegin(3, cut=2, steps=5, tokens=24, bits_up=4, bandwidth_hz=1e6, programs=[PROGRAM]),
    StepDone(3, 4, loss=1.5),
    RoundEnd(3, late=True),
    Ping(1, b"xyz", 7),
    Pong(1, b"1234567"),
    Bye("the data is gone"),
]
"""One of each kind, as protocol 4 was recorded with."""
LATER = [RoundBegin(4, cut=1, steps=5, programs=[PRECISE], precision="int8")]
"""With fields that came later, which are not sent at their defaults."""


def test_every_message_survives() -> None:
    assert {type(example) for example in EXAMPLES} == set(messages.KINDS)
    for example in (*EXAMPLES, *LATER):
        assert messages.decode(messages.encode(example)) == example


@pytest.mark.parametrize(
    "changed",
    [
        {"device": "../../etc"},
        {"device": "x" * 64},
        {"job": "not hex"},
        {"samples": -1},
        {"flops_per_s": 0.0},
        {"flops_per_s": float("inf")},
        {"flops_per_s": float("nan")},
        {"flops_per_s": 5e-324},
        {"flops_per_s": 1e300},
        {"processor": "x" * 513},
        {"cores": 0},
    ],
)
def test_a_value_outside_its_bounds_is_refused(changed: dict[str, object]) -> None:
    fields = {"type": "hello", **msgspec.structs.asdict(HELLO), **changed}
    with pytest.raises(NetworkError, match="message"):
        messages.decode(msgspec.msgpack.encode(fields))


def test_a_list_that_declares_billions_takes_no_memory() -> None:
    whole = messages.encode(Ready("ab", 3, labels=[]))
    empty = b"\xa6labels\x90"
    assert whole.count(empty) == 1
    billions = whole.replace(empty, b"\xa6labels\xdd\xff\xff\xff\xff")
    tracemalloc.start()
    try:
        with pytest.raises(NetworkError):
            messages.decode(billions)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_mutated_messages_are_messages_or_one_error() -> None:
    rng = random.Random(7)
    encoded = [messages.encode(example) for example in EXAMPLES]
    refused = 0
    for _ in range(5000):
        message = bytearray(rng.choice(encoded))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(message))
            message[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(1, 3))
        try:
            messages.decode(bytes(message))
        except NetworkError:
            refused += 1
    assert 1000 < refused < 5000
