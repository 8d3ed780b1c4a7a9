"""Versions that speak one protocol understand each other: held to what was recorded for it."""

import json
from typing import Any

import msgspec
import pytest
import yaml

pytest.importorskip("grpc")

from cutlayer import methods
from cutlayer.errors import RefusedError
from cutlayer.job import brief_job, make_job, parse_job
from cutlayer.network.device.device_requests import read_job
from cutlayer.network.transport import messages
from cutlayer.network.transport.admission import check_hello
from cutlayer.wire.frame import KINDS, kind_of
from net_helpers import hello
from recorded_wire import defaults, path_of, plain_frames, told
from test_net_messages import EXAMPLES

SPOKEN = range(messages.OLDEST_PROTOCOL, messages.PROTOCOL + 1)


@pytest.fixture(scope="module", params=SPOKEN, ids=lambda number: f"protocol {number}")
def recorded(request: pytest.FixtureRequest) -> Any:
    return json.loads(path_of(request.param).read_text())


def frames_of(recorded: Any) -> dict[str, bytes]:
    return {kind: bytes.fromhex(frame) for kind, frame in recorded["frames"].items()}


def test_recorded_messages_are_read(recorded: Any) -> None:
    now = {type(example).__name__: example for example in EXAMPLES}
    for name, packed in recorded["messages"].items():
        assert messages.decode(bytes.fromhex(packed)) == now[name]


def test_messages_say_nothing_that_the_recorded_version_could_not_read(recorded: Any) -> None:
    for example in EXAMPLES:
        packed = bytes.fromhex(recorded["messages"][type(example).__name__])
        if isinstance(example, messages.Hello):  # which a server reads whatever is added to it
            continue
        assert messages.encode(example) == packed


def test_recorded_frames_of_every_kind_are_read_as_they_were(recorded: Any) -> None:
    frames = frames_of(recorded)
    assert set(frames) == set(KINDS)
    assert {kind: kind_of(frame) for kind, frame in frames.items()} == {
        kind: kind for kind in KINDS
    }
    assert told(frames) == recorded["told"]


def test_frames_are_still_written_as_they_were_recorded(recorded: Any) -> None:
    frames = frames_of(recorded)
    for kind, frame in plain_frames().items():
        assert frame == frames[kind]


def test_a_setting_keeps_its_default_within_a_protocol(recorded: Any) -> None:
    """A device of the version before takes what it is not told at its own defaults."""

    def check(then: Any, now: Any, path: str) -> None:
        if isinstance(then, dict) and isinstance(now, dict):
            for name, value in then.items():
                assert name in now, f"{path}{name} is gone: it needs a new PROTOCOL"
                check(value, now[name], f"{path}{name}.")
        else:
            assert then == now, f"{path} has another default: it needs a new PROTOCOL"

    for part, now in defaults().items():
        check(recorded[part], now, f"{part}.")


@pytest.mark.parametrize("method", methods.NAMES)
@pytest.mark.parametrize(
    "changes",
    [{}, {"tokens": {"keep": None}, "uplink": {"bits": 32}}, {"device": "trained", "cut": 2}],
    ids=str,
)
def test_a_device_is_told_the_whole_job_in_brief(method: str, changes: dict[str, Any]) -> None:
    job = make_job({"method": {"name": method, **changes}, "world": {}, "devices": {"count": 3}})
    said = yaml.safe_load(brief_job(job))
    assert parse_job(said) == job
    assert "model" not in said  # all at its defaults


def test_a_setting_that_a_device_does_not_know_is_one_sentence() -> None:
    with pytest.raises(RefusedError, match="upgrade cutlayer on this device"):
        read_job("training: {rounds: 3, from_the_next_version: 1}")


@pytest.mark.parametrize(
    ("protocol", "sentence"),
    [
        (messages.OLDEST_PROTOCOL - 1, "is too old for this server.*: upgrade the device to"),
        (messages.PROTOCOL + 1, "is newer than this server's.*: upgrade the server first"),
    ],
)
def test_a_device_that_cannot_be_served_is_told_what_to_upgrade(
    protocol: int, sentence: str
) -> None:
    fields = msgspec.to_builtins(hello("cam-1", protocol=protocol))
    said = messages.decode(msgspec.msgpack.encode({**fields, "from_the_next_version": 1}))
    with pytest.raises(RefusedError, match=sentence):
        check_hello(said, None)
    for spoken in SPOKEN:
        assert check_hello(hello("cam-1", protocol=spoken), None)
