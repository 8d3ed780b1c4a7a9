"""Every field of every message at its ends and beyond: refused at once, or believed in bounds."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("grpc")

from cutlayer.errors import CutlayerError, NetworkError
from cutlayer.job import Job, dump_job
from cutlayer.model.part import write_part
from cutlayer.network.device import device_requests
from cutlayer.network.file_transfer import describe_files
from cutlayer.network.part_files import part_of
from cutlayer.network.server.claims import Claims, far_off
from cutlayer.network.server.measured_world import KnownDevice, MeasuredWorld
from cutlayer.network.transport import messages
from cutlayer.network.transport.link_rates import LinkRates
from cutlayer.network.transport.messages import (
    Message,
    Probe,
    Probed,
    Ready,
    RoundBegin,
    Task,
)
from cutlayer.train.device import Device
from cutlayer.train.opening import Opening
from cutlayer.train.parts import Parts, load_parts
from helpers import small_job
from test_net_messages import EXAMPLES

NOTHING_DOES = (
    math.nan, math.inf, -math.inf, -1, -5e-324, -(2**63), 1e300, "1", [], {}, b"1",
    [[[]]], {"a": 1},
)  # fmt: skip
"""Values that no numeric field of any message takes."""


def whole(kind: type[Message]) -> dict[str, Any]:
    (example,) = (one for one in EXAMPLES if type(one) is kind)
    return msgspec.to_builtins(example, builtin_types=(bytes,))  # type: ignore[no-any-return]


def decoded(fields: dict[str, Any]) -> Message:
    return messages.decode(msgspec.msgpack.encode(fields))


def sentence_or_answer(work: Callable[[], object]) -> str | None:
    """What an error says that a person is shown; None where there is none."""
    try:
        work()
    except CutlayerError as error:
        return str(error)
    return None


def bare(kind: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """A field's type without the None that it may be as well."""
    while isinstance(kind, msgspec.inspect.Metadata | msgspec.inspect.UnionType):
        if isinstance(kind, msgspec.inspect.Metadata):
            kind = kind.type
        else:
            (kind,) = (one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
    return kind


def fields_of(*wanted: type) -> Iterator[Any]:
    for kind in messages.KINDS:
        info = msgspec.inspect.type_info(kind)
        assert isinstance(info, msgspec.inspect.StructType)
        for field in info.fields:
            found = bare(field.type)
            if isinstance(found, wanted):
                yield pytest.param(kind, field.name, found, id=f"{kind.__name__}.{field.name}")


NUMBERS = list(fields_of(msgspec.inspect.IntType, msgspec.inspect.FloatType))
SIZED = list(
    fields_of(msgspec.inspect.StrType, msgspec.inspect.BytesType, msgspec.inspect.ListType)
)


@pytest.mark.parametrize(("kind", "name", "numbers"), NUMBERS)
def test_a_number_is_taken_from_end_to_end_and_not_beyond(
    kind: type[Message], name: str, numbers: Any
) -> None:
    if (kind.__name__, name) == ("Hello", "protocol"):  # compared with the one that is spoken
        return
    integer = isinstance(numbers, msgspec.inspect.IntType)
    low, high = numbers.ge if numbers.ge is not None else numbers.gt, numbers.le
    assert low is not None, "it has no least value"
    assert high is not None, "it has no largest value"
    assert low >= 0
    fields = whole(kind)
    taken = [high, high / 2, low if numbers.gt is None else math.nextafter(low, 1)]
    for value in [int(one) for one in taken] if integer else taken:
        assert getattr(decoded({**fields, name: value}), name) == value
    refused = [*NOTHING_DOES, low if numbers.gt is not None else low - 1, 2 * high]
    refused += [low + 0.5, 5e-324, high + 1, 2**64 - 1] if integer else []
    for value in refused:
        with pytest.raises(NetworkError, match="message"):
            decoded({**fields, name: value})


@pytest.mark.parametrize(("kind", "name", "sized"), SIZED)
def test_a_text_and_a_list_have_a_length_that_is_kept(
    kind: type[Message], name: str, sized: Any
) -> None:
    text = isinstance(sized, msgspec.inspect.StrType)
    most = sized.max_length or (128 if text and sized.pattern else None)
    assert most is not None, "it may be of any length"
    one: Any = "a" if text else b"a" if isinstance(sized, msgspec.inspect.BytesType) else [0.5]
    for value in (one * (most + 1), 1, -0.0, math.nan, {}):
        with pytest.raises(NetworkError, match="message"):
            decoded({**whole(kind), name: value})


@pytest.mark.parametrize("kind", messages.KINDS)
def test_a_message_has_its_fields_once_and_no_others(kind: type[Message]) -> None:
    fields = whole(kind)
    if kind is messages.Hello:  # of a later version, too
        assert decoded({**fields, "more": 1}) == decoded(fields)
    else:
        with pytest.raises(NetworkError):
            decoded({**fields, "more": 1})
    with pytest.raises(NetworkError):
        decoded({**fields, "type": "other"})
    for name in kind.__struct_fields__:
        # The same field twice, as msgpack can say it: the second time it is believed no more.
        pairs = [*fields.items(), (name, {"no": "field takes this"})]
        packed = b"".join(msgspec.msgpack.encode(part) for pair in pairs for part in pair)
        with pytest.raises(NetworkError):
            messages.decode(bytes([0x80 | len(pairs)]) + packed)
    required = {one.name for one in msgspec.structs.fields(kind) if one.required}
    for name in required:
        with pytest.raises(NetworkError):
            decoded({key: value for key, value in fields.items() if key != name})


# ---- what the bounds let through, where it is used ----

EPSILONS = (None, 1.0)
EDGE_COUNTS = st.sampled_from([1, 2, 99, 100, 101, 2**20, 2**31])
EDGE_FLOATS = st.sampled_from(
    [0.0, 5e-324, 1e-300, 1e-12, 1e-6, 0.5, 1.0, 1e3, 1e6, 1e12, 1e38]
) | st.floats(0, 1e38)
CURVES = st.none() | st.lists(
    st.sampled_from([0.0, 5e-324, 0.02, 0.5, 1.0, 1e6]) | st.floats(0, 1e6), max_size=60
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Parts]:
    job = small_job(
        "devices.count=3", "data.train_samples=60", "data.test_samples=10",
        method="st-sflora", world={"deadline_s": 60.0},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTLAYER_CACHE", str(tmp_path_factory.mktemp("cache")))
        return job, load_parts(job, None)


@pytest.mark.parametrize("epsilon", EPSILONS)
@settings(max_examples=50, deadline=None)
@given(samples=st.lists(EDGE_COUNTS, min_size=3, max_size=3), labels=st.data(), own=st.booleans())
def test_samples_and_labels_are_refused_or_bounded_by_the_cohort(
    loaded: tuple[Job, Parts], epsilon: float | None, samples: list[int], labels: Any, own: bool
) -> None:
    shares = {"generator": {"source": "demo"}, "share_epsilon": epsilon}
    job = small_job("devices.count=3", method="genfv", generated=shares, world={"deadline_s": 9.0})
    claims = Claims(job, loaded[1])
    drawn = labels.draw(
        st.none()
        | st.lists(st.sampled_from([0.0, 1.0, 10.0, 2.0**53]) | st.floats(0, 2.0**53), max_size=12)
    )
    ready_said = Ready("ab", samples[0], own, drawn)
    refused = sentence_or_answer(lambda: claims.check_ready(0, ready_said))
    assert refused is None or "device 0" in refused
    if refused is None and own and drawn is not None:
        assert len(drawn) == 10
        assert math.isclose(sum(drawn), samples[0], abs_tol=600 if epsilon else 0.5)
    ready = {number: Ready("ab", one, own=True) for number, one in enumerate(samples)}
    held = claims.samples(ready)
    assert all(1 <= held[number] <= samples[number] for number in ready)
    assert max(held.values()) <= 10 * sorted(samples)[1]


@settings(max_examples=300, deadline=None)
@given(
    round=st.sampled_from([0, 1, 2**53]), cut=st.sampled_from([0, 2, 4096]), spread=EDGE_FLOATS,
    square=EDGE_FLOATS, curve=CURVES, scored=st.booleans(),
)  # fmt: skip
def test_a_probe_is_refused_by_its_devices_number_or_can_be_planned_with(
    loaded: tuple[Job, Parts], round: int, cut: int, spread: float, square: float,
    curve: list[float] | None, scored: bool,
) -> None:  # fmt: skip
    claims = Claims(*loaded)
    answer = Probed(round, cut, spread, square, curve)
    refused = sentence_or_answer(lambda: claims.statistics(1, answer, (1, 2, scored)))
    assert refused is None or "device 1" in refused
    if refused is not None:
        return
    assert (round, cut) == (1, 2)
    found = claims.statistics(1, answer, (1, 2, scored))
    assert 0 < found.mean_square < math.inf
    assert 0 < found.spread < math.inf
    assert (found.importance is not None) == scored
    assert not far_off({1: found})


def test_a_probe_of_the_right_curve_is_taken(loaded: tuple[Job, Parts]) -> None:
    curve = np.linspace(0, 1, 50).tolist()
    for spread in (1e-6, 1.0, 1e6):
        answer = Probed(1, 2, spread, spread**2, curve)
        assert Claims(*loaded).statistics(1, answer, (1, 2, 1)).spread == spread


@pytest.mark.parametrize("flops", [None, 1e3, 1e18])
@pytest.mark.parametrize("memory", [0, 1, 2**53])
@pytest.mark.parametrize("rate", [1e-300, 1e-3, 1e21])
def test_what_a_device_says_it_can_do_leaves_the_world_finite(
    loaded: tuple[Job, Parts], flops: float | None, memory: int, rate: float
) -> None:
    job, parts = loaded
    world = MeasuredWorld(job, parts.model.spec)
    usual = KnownDevice(1e9, 2**30, LinkRates(0.01, 1e7, 1e7))
    world.know({0: usual, 1: usual, 2: KnownDevice(flops, memory, LinkRates(0.01, rate, rate))})
    found = world.planning_input(0, {0: 20, 1: 20, 2: 2**31}, 10, {})
    assert np.isfinite(found.fleet.clock_hz).all()
    assert (found.fleet.clock_hz > 0).all()
    for values in (found.state.gain_up, found.state.gain_down):
        assert np.isfinite(values).all()
        assert (values >= 0).all()


# ---- what a server says, on a device ----


@pytest.fixture(scope="module")
def task(loaded: tuple[Job, Parts], tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Path]:
    job, parts = loaded
    folder = tmp_path_factory.mktemp("part")
    files = describe_files(write_part(folder, job.model, job.seed, part_of(job)))
    classes = list(parts.train.classes)
    return Task(0, dump_job(job), "ab", classes, job.cut, files), folder


@pytest.fixture(scope="module")
def device(loaded: tuple[Job, Parts], task: tuple[Task, Path]) -> Device:
    return device_requests.make_device(loaded[0], *task, None)


def asked_for(edit: dict[str, Any]) -> RoundBegin:
    return RoundBegin(**{"round": 0, "cut": 2, "steps": 2, **edit})


BEGINS: dict[str, tuple[Any, ...]] = {
    "round": (0, 2**53),
    "cut": (0, 1, 3, 4, 5, 4096),
    "steps": (0, 1, 2**53),
    "samples": (1, 2**31),
    "tokens": (1, 49, 50, 2**20),
    "bits_up": (1, 7, 9, 31, 32),
    "bits_down": (1, 7, 9, 31, 32),
    "bandwidth_hz": (5e-324, 1e21),
    "power_w": (5e-324, 1e21),
}


@pytest.mark.parametrize(("name", "values"), BEGINS.items(), ids=BEGINS)
def test_a_round_that_no_device_can_take_part_in_costs_it_the_round(
    device: Device, name: str, values: tuple[Any, ...]
) -> None:
    for value in values:
        asked = asked_for({name: value})
        sentence_or_answer(lambda asked=asked: device_requests.begin(device, asked, Opening()))  # type: ignore[misc]


@pytest.mark.parametrize("frame", [b"", b"garbage", bytes(2**16)])
def test_an_adapter_that_is_none_costs_a_device_the_round(device: Device, frame: bytes) -> None:
    with pytest.raises(CutlayerError):
        device_requests.begin(device, asked_for({"adapter": True}), Opening(adapter=frame))


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 4, 5, 4096])
def test_a_probe_of_any_cut_is_a_sentence_or_an_answer(
    device: Device, cut: int, scored: bool
) -> None:
    for round in (0, 2**53):
        asked = Probe(round, cut, scored)
        sentence_or_answer(lambda asked=asked: device_requests.probe(device, asked))  # type: ignore[misc]


@pytest.mark.parametrize(
    "edit",
    [
        {"number": 3}, {"number": 2**20}, {"cut": 0}, {"cut": 1}, {"cut": 4096}, {"classes": []},
        {"classes": ["a"]}, {"classes": ["a"] * 65536},
    ],
    ids=str,
)  # fmt: skip
def test_a_task_that_does_not_fit_its_job_is_a_sentence(
    loaded: tuple[Job, Parts], task: tuple[Task, Path], edit: dict[str, Any]
) -> None:
    told, folder = task
    other = msgspec.structs.replace(told, **edit)
    sentence_or_answer(lambda: device_requests.make_device(loaded[0], other, folder, None))
