"""A secure sum is exact, bears devices that drop out, and shows the server nothing else."""

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from cutlayer.errors import FrameError, JobError, RunError
from cutlayer.job import change_job
from cutlayer.secure_sum import device as device_side
from cutlayer.secure_sum import shamir
from cutlayer.secure_sum.device import SumDevice
from cutlayer.secure_sum.fixed_point import RANGE, to_values, to_words
from cutlayer.secure_sum.masks import public_of
from cutlayer.secure_sum.messages import (
    Begin,
    Delivery,
    Keys,
    Masked,
    Roster,
    Shares,
    Survivors,
    Unmask,
    encode,
    read_answer,
    read_request,
)
from cutlayer.secure_sum.server import SumServer, threshold_of
from cutlayer.train.parts import load_parts
from helpers import small_job

STEPS = ("begin", "roster", "delivery", "ask_survivors", "total")
Edit = Callable[[int, str, bytes], bytes | None]


def play(
    values: Mapping[int, Any],
    weights: Mapping[int, int] | None = None,
    edit: Edit = lambda device, step, frame: frame,
    quorum: float = 2 / 3,
) -> tuple[Any, SumServer, list[tuple[int, str, bytes]]]:
    """The sum over some devices, the server, and all that it received.

    edit: what becomes of a device's answer in a step (None: it is gone).
    """
    arrays = {n: np.asarray(v, dtype=np.float64) for n, v in values.items()}
    weights = weights or dict.fromkeys(arrays, 1)
    server = SumServer(4, weights, len(next(iter(arrays.values()))), quorum)
    devices = {n: SumDevice(n, 4, v) for n, v in arrays.items()}
    received: list[tuple[int, str, bytes]] = []
    frames: Any = server.begin()
    for step in STEPS[1:]:
        answers = {}
        for number, frame in frames.items():
            answer = edit(number, step, devices[number].answer(frame))
            if answer is not None:
                answers[number] = answer
                received.append((number, step, answer))
        frames = getattr(server, step)(answers)
    return frames, server, received


def gone(*lost: tuple[int, str]) -> Edit:
    """Devices that die before their answer in a step arrives."""
    return lambda device, step, frame: None if (device, step) in lost else frame


def quantised(values: Mapping[int, Any], who: list[int], devices: int) -> np.ndarray:
    words = [to_words(np.asarray(values[n], np.float64), devices).astype(object) for n in who]
    return np.array(sum(words) % 2**32, dtype=np.uint32)


@given(
    st.integers(3, 9),
    st.lists(st.floats(-RANGE, RANGE), min_size=1, max_size=5),
    st.data(),
)
@settings(max_examples=25)
def test_the_sum_of_whoever_is_left_is_exact_in_integers(
    count: int, base: list[float], data: st.DataObject
) -> None:
    values = {n: [v * (n + 1) / count for v in base] for n in range(count)}
    most = count - threshold_of(count, 2 / 3)
    dying = data.draw(st.lists(st.integers(0, count - 1), max_size=most, unique=True))
    steps = {n: data.draw(st.sampled_from(STEPS[1:])) for n in dying}
    total, server, _ = play(values, edit=gone(*steps.items()))
    counted = [n for n in values if steps.get(n) in (None, "total")]
    assert sorted(server.survivors) == counted
    assert (total == quantised(values, counted, count)).all()


def test_weights_make_the_mean_of_those_that_are_left() -> None:
    values = {n: [n / 10, -1.0] for n in range(8)}
    weights = {n: 10 * (n + 1) for n in range(8)}
    total, server, _ = play(values, weights, gone((0, "ask_survivors"), (5, "ask_survivors")))
    left = [1, 2, 3, 4, 6, 7]
    mean = np.average([values[n] for n in left], axis=0, weights=[weights[n] for n in left])
    np.testing.assert_allclose(server.mean(total), mean, atol=1e-6)


def test_with_too_few_left_nothing_is_restored() -> None:
    with pytest.raises(FrameError, match=r"5 of 8 devices are left .* but 6 are needed"):
        play({n: [1.0] for n in range(8)}, edit=gone(*((n, "ask_survivors") for n in range(3))))
    with pytest.raises(FrameError, match="has 2 devices"):
        play({n: [1.0] for n in range(2)})


def test_two_sets_of_numbers_with_one_sum_look_alike_to_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Device 1 adds d more and device 2 as much less; where their common mask is less by d, every
    byte that the server receives is the same, and such a mask is as likely as any other.
    """
    shift = np.array([123456, 7], dtype=np.uint32)
    pair_mask = device_side.pair_mask

    def run(moved: bool) -> list[tuple[int, str, bytes]]:
        drawn = iter(range(10**6))

        def number(below: int) -> int:
            return hash((next(drawn), "field")) % below

        def other_mask(session: bytes, private: bytes, n: int, m: int, *rest: Any) -> Any:
            mask = pair_mask(session, private, n, m, *rest)
            if moved and {n, m} == {1, 2}:
                return mask - shift if n == 1 else mask + shift
            return mask

        with monkeypatch.context() as patch:
            patch.setattr(
                secrets,
                "token_bytes",
                lambda size: bytes((next(drawn) * 37 + i) % 251 for i in range(size)),
            )
            patch.setattr(secrets, "randbelow", number)
            patch.setattr(device_side, "pair_mask", other_mask)
            step = 1 / ((2**31 - 1) // 5 / RANGE)
            values = {n: np.array([0.5 * n, -0.25]) for n in range(5)}
            if moved:
                values[1] = values[1] + shift * step
                values[2] = values[2] - shift * step
            total, _, received = play(values, edit=gone((4, "ask_survivors")))
        assert (total == quantised({n: [0.5 * n, -0.25] for n in range(4)}, [0, 1, 2, 3], 5)).all()
        return received

    assert run(moved=False) == run(moved=True)


def test_the_server_never_has_enough_shares_of_what_hides_one_device() -> None:
    """Of a survivor it gets shares of the seed alone, of a lost one of the mask key alone."""
    _, _, received = play({n: [float(n)] for n in range(8)}, edit=gone((7, "ask_survivors")))
    for number, step, frame in received:
        if step == "total":
            unmask = read_answer(frame, number, Unmask)
            assert unmask.seeds.keys() == set(range(7))
            assert unmask.keys.keys() == {7}
        elif step == "delivery":  # what passes through the server is sealed
            shares = read_answer(frame, number, Shares)
            assert number not in shares.sealed
    masked = {n: read_answer(f, n, Masked).words for n, s, f in received if s == "ask_survivors"}
    plain = {n: to_words(np.array([float(n)]), 8).tobytes() for n in range(8)}
    assert all(masked[n] != plain[n] for n in masked)


def test_a_device_that_is_called_lost_too_early_stays_hidden() -> None:
    """The server says that device 2 was lost and restores its mask key; then its numbers come.

    Without the seed, of which nobody gives a share now, they are still under a mask of their own.
    """
    held: dict[int, bytes] = {}

    def late(device: int, step: str, frame: bytes) -> bytes | None:
        if (device, step) == (2, "ask_survivors"):
            held[device] = frame
            return None
        return frame

    values = {n: [float(n)] for n in range(6)}
    total, server, received = play(values, edit=late)
    assert (total == quantised(values, [0, 1, 3, 4, 5], 6)).all()
    keys = {n: read_answer(f, n, Keys) for n, s, f in received if s == "roster"}
    given_up = {n: read_answer(f, n, Unmask) for n, s, f in received if s == "total"}
    assert all(2 not in one.seeds for one in given_up.values())
    some = list(given_up)[: server.threshold]
    private = shamir.restore({n + 1: given_up[n].keys[2] for n in some})
    assert public_of(private) == keys[2].mask
    left = np.frombuffer(read_answer(held[2], 2, Masked).words, dtype="<u4").astype(np.uint32)
    for other in keys.keys() - {2}:
        left = left - device_side.pair_mask(server.session, private, 2, other, keys[other].mask, 1)
    assert left != to_words(np.array([2.0]), 6)


# What a server must not be answered


def advertised(device: SumDevice, **changes: Any) -> Keys:
    fields = {"session": bytes(16), "round": 4, "devices": 3, "threshold": 2, "values": 1}
    frame = encode(Begin(**{**fields, "weight": 1, "most": 1, **changes}))
    return read_answer(device.answer(frame), 0, Keys)


def others(count: int) -> dict[int, Keys]:
    return {n: advertised(SumDevice(n, 4, np.zeros(1))) for n in range(1, count + 1)}


def test_a_device_answers_each_question_once_and_none_that_would_give_it_away() -> None:
    for changes in ({"threshold": 3, "devices": 6}, {"weight": 2}, {"values": 2}, {"round": 5}):
        with pytest.raises(FrameError, match="secure sum"):
            advertised(SumDevice(0, 4, np.zeros(1)), **changes)
    device = SumDevice(0, 4, np.zeros(1))
    mine = advertised(device)
    with pytest.raises(FrameError, match="Begin instead of Roster"):
        advertised(device)
    two = others(2)
    for roster in ({**two}, {0: two[1], **two}, {0: mine}, {0: mine, 1: two[1], 2: two[1]}):
        with pytest.raises(FrameError, match="would not be hidden"):
            device.answer(encode(Roster(roster)))
    device.answer(encode(Roster({0: mine, **two})))
    for sealed in ({}, {0: bytes(82)}, {5: bytes(82)}):
        with pytest.raises(FrameError, match="would not be hidden"):
            device.answer(encode(Delivery(sealed)))
    with pytest.raises(FrameError, match="damaged"):
        device.answer(encode(Delivery({1: bytes(82), 2: bytes(82)})))


def test_survivors_that_are_too_few_or_unknown_get_no_shares() -> None:
    values = {n: [1.0] for n in range(3)}
    server = SumServer(4, dict.fromkeys(values, 1), 1, 2 / 3)
    devices = {n: SumDevice(n, 4, np.ones(1)) for n in values}
    frames: Any = server.begin()
    for step in STEPS[1:3]:
        frames = getattr(server, step)({n: devices[n].answer(f) for n, f in frames.items()})
    for number, frame in frames.items():
        devices[number].answer(frame)
    for alive in ([0], [0, 9], []):
        with pytest.raises(FrameError, match="would not be hidden"):
            devices[0].answer(encode(Survivors(alive)))
    assert not devices[0].done
    devices[0].answer(encode(Survivors([0, 1])))
    with pytest.raises(FrameError, match="instead of nothing"):
        devices[0].answer(encode(Survivors([0, 1, 2])))


# Answers that are not sound cost the device, or the round, and nothing else


def changed_share(frame: bytes) -> bytes:
    unmask = read_answer(frame, 0, Unmask)
    seeds = {n: bytes([0]) + bytes([one[1] ^ 1]) + one[2:] for n, one in unmask.seeds.items()}
    return encode(Unmask(seeds, unmask.keys))


LIES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "garbage": ("roster", lambda frame: b"\x93CUT garbage"),
    "nothing": ("roster", lambda frame: b""),
    "an answer to another question": ("roster", lambda frame: encode(Masked(b"1234"))),
    "shares for nobody": ("delivery", lambda frame: encode(Shares({}))),
    "half of the numbers": (
        "ask_survivors",
        lambda frame: encode(Masked(read_answer(frame, 0, Masked).words[:-4])),
    ),
    "no shares": ("total", lambda frame: encode(Unmask({}, {}))),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_is_not_sound_costs_the_device_alone(lie: str) -> None:
    step, change = LIES[lie]
    values = {n: [n / 8, 1.0] for n in range(6)}
    total, server, _ = play(
        values, edit=lambda n, at, frame: change(frame) if (n, at) == (2, step) else frame
    )
    assert server.faults.keys() == {2}
    # Whoever lies after its numbers came is in the sum.
    who = [0, 1, 3, 4, 5] if step != "total" else list(values)
    assert (total == quantised(values, who, 6)).all()


@pytest.mark.parametrize("liars", [{0}, {5}, {0, 7}])
def test_false_shares_cost_whoever_sent_them_alone(liars: set[int]) -> None:
    def false(number: int, step: str, frame: bytes) -> bytes:
        return changed_share(frame) if number in liars and step == "total" else frame

    values = {n: [n / 8, 1.0] for n in range(8)}
    total, server, _ = play(values, edit=false)
    assert (total == quantised(values, list(values), 8)).all()
    assert server.faults.keys() == liars
    assert all("a false share" in str(fault) for fault in server.faults.values())


def test_without_shares_to_spare_a_false_one_loses_the_round_and_is_never_averaged() -> None:
    def false(number: int, step: str, frame: bytes) -> bytes | None:
        if number in (3, 4) and step == "total":
            return None
        return changed_share(frame) if (number, step) == (0, "total") else frame

    with pytest.raises(FrameError, match="a false share, and the round is lost"):
        play({n: [1.0] for n in range(6)}, edit=false)


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_bytes_from_elsewhere_are_a_message_or_one_error(frame: bytes) -> None:
    for read in (
        read_request,
        lambda f: read_answer(f, 0, Keys),
        lambda f: read_answer(f, 0, Unmask),
    ):
        with suppress(FrameError):
            read(frame)


KEY, SHARE, SEALED = st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=90)
NUMBERS = st.integers(-2, 2**21)
ODD: dict[str, Any] = {
    "keys": st.dictionaries(NUMBERS, KEY, max_size=3),
    "sealed": st.dictionaries(NUMBERS, SEALED, max_size=3),
    "seeds": st.dictionaries(NUMBERS, SHARE, max_size=3),
    "devices": st.one_of(NUMBERS, st.lists(NUMBERS, max_size=3)),
    "words": st.binary(max_size=9),
    "threshold": NUMBERS,
    "session": KEY,
}


@given(
    st.sampled_from(
        ["begin", "roster", "delivery", "survivors", "keys", "shares", "masked", "unmask"]
    ),
    st.fixed_dictionaries({}, optional=ODD),
)
@settings(max_examples=150)
def test_maps_with_odd_fields_are_refused_by_both_sides(kind: str, fields: dict[str, Any]) -> None:
    """A device that has begun nothing answers none of them but with an error."""
    frame = msgspec.msgpack.encode({"type": kind, **fields})
    with pytest.raises(FrameError, match="secure sum"):
        SumDevice(0, 4, np.zeros(1)).answer(frame)
    server = SumServer(4, dict.fromkeys(range(3), 1), 1, 2 / 3)
    server.begin()
    with pytest.raises(FrameError, match="are needed"):
        server.roster(dict.fromkeys(range(3), frame))


# Shamir's shares and whole steps


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(1, 7),
    st.integers(0, 4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60)
def test_any_so_many_shares_restore_a_secret(
    secret: bytes, threshold: int, more: int, random: Any
) -> None:
    points = random.sample(range(1, 2**20), threshold + more)
    shares = shamir.share(secret, points, threshold)
    some = random.sample(points, threshold)
    assert shamir.restore({point: shares[point] for point in some}) == secret


def test_fewer_shares_fit_every_secret() -> None:
    """For two of three shares and any secret there is a third share that restores it."""
    shares = shamir.share(bytes(32), [1, 2, 3], 3)
    wanted, p = 12345, shamir.PRIME
    one, two = (int.from_bytes(shares[point], "big") for point in (1, 2))
    third = (wanted - 3 * one + 3 * two) % p  # the secret is 3 s1 - 3 s2 + s3
    held = {1: shares[1], 2: shares[2], 3: third.to_bytes(33, "big")}
    assert int.from_bytes(shamir.restore(held), "big") == wanted


def test_the_field_is_one_and_bad_shares_are_refused() -> None:
    assert all(pow(base, shamir.PRIME - 1, shamir.PRIME) == 1 for base in (2, 3, 5, 7, 11, 13))
    with pytest.raises(ValueError, match="not a number of the field"):
        shamir.restore({1: b"\xff" * 33})
    with pytest.raises(ValueError, match="cannot share"):
        shamir.share(bytes(32), [1, 1], 2)


@given(st.lists(st.floats(-RANGE, RANGE), min_size=1, max_size=6), st.integers(3, 2000))
@settings(max_examples=40)
def test_steps_are_as_fine_as_they_may_be_and_never_overflow(
    values: list[float], devices: int
) -> None:
    words = to_words(np.array(values), devices)
    total = np.zeros(len(values), np.uint32)
    for _ in range(min(devices, 50)):
        total = total + words
    exact = np.array(values) * min(devices, 50)
    step = RANGE / ((2**31 - 1) // devices)
    assert np.abs(to_values(total, devices) - exact).max() <= 0.51 * step * min(devices, 50)
    with pytest.raises(RunError, match="changed by more than 8"):
        to_words(np.array([np.nan]), devices)


@pytest.mark.parametrize(
    ("method", "change", "said"),
    [
        ("sflora", "trust.average=median", "trust.average needs the server to read"),
        ("sflora", "trust.clip_to_median=2", "trust.clip_to_median needs"),
        ("sflora", "training.clip_update_norm=1", "clip_update_norm needs"),
        ("sflora", "privacy.unit=device", "unit device needs"),
        ("split-lora", "", "order is sequential"),
        ("sflora", "devices.count=2", "take three or more"),
        ("sflora", "method.train=full", "take lora"),
        ("sflora", "world={}", "may be late"),
        ("asfl", "world={}", "different cuts"),
    ],
)
def test_what_has_to_read_an_adapter_is_refused(method: str, change: str, said: str) -> None:
    job = change_job(small_job("privacy.secure_sum=true", method=method), change.split())
    with pytest.raises(JobError, match=said):
        load_parts(job)
