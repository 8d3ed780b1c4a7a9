"""Last blocks on devices (model.tail): labels stay there, and training is what it was."""

import json
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cutlayer
from cutlayer.errors import CutlayerError, JobError, ModelError
from cutlayer.job import Job, change_job
from cutlayer.record.checkpoint import load_state
from cutlayer.train.coding import codec_of
from cutlayer.train.fitted_basis import bases_of
from cutlayer.train.ways import FEATURE_GRADIENTS, FEATURES, GRADIENTS
from cutlayer.wire.frame import kind_of
from cutlayer.wire.frame_bytes import label_bits
from cutlayer.wire.messages import ActivationsMessage
from cutlayer.wire.tail import (
    FeatureGradientMessage,
    decode_feature_gradient,
    encode_features,
)
from helpers import equal, language_job, largest_difference, small_job
from test_run_simulate import StopAfter
from tiny_models import write_language, write_resnet

WORDS = ("wombat", "dingo", "heron")


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs whose completions are all of one length, so that tokens and samples weigh alike."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {"prompt": f"name : {WORDS[i % 3]}", "completion": f"the {WORDS[i % 3][:5]} is here"}
        for i in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


text_job = partial(language_job, rounds=1)


def run(job: Job, out: Path) -> cutlayer.Result:
    return cutlayer.simulate(job, out=out)


# ---- the same training ----


@pytest.mark.parametrize("tail", [0, 1])
def test_a_language_run_with_a_tail_trains_what_the_whole_model_does(
    language: Path, table: Path, tmp_path: Path, tail: int
) -> None:
    whole = run(text_job(language, table, method="fedlora"), tmp_path / "whole")
    u_shaped = run(text_job(language, table, f"model.tail={tail}"), tmp_path / "u")
    assert largest_difference(u_shaped.adapter, whole.adapter) < 1e-5
    assert u_shaped.rows[0].loss == pytest.approx(whole.rows[0].loss, rel=1e-5)
    for _, _, _, _, _, features, answers in u_shaped.rows[0].traffic.values():
        assert features > 1000
        assert answers > 1000


LEARNT = ("model.tail=0", "method.tail_tokens=learnt")


def test_only_tokens_that_are_learnt_go_to_a_tail_without_blocks(
    language: Path, tmp_path: Path
) -> None:
    table = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"name : {'x' * (i % 7)}", "completion": "the " * (1 + i % 5)} for i in range(24)
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # Completions differ in length: like a server with labels, this one weighs devices by tokens.
    plain, some, every = (
        run(text_job(language, table, *changes, "training.rounds=2"), tmp_path / name)
        for name, changes in (("plain", ()), ("some", LEARNT), ("every", ("model.tail=0",)))
    )
    assert equal(plain.adapter, some.adapter)
    for device, all_of_it in every.rows[-1].traffic.items():
        marked = some.rows[-1].traffic[device]
        assert 0 < marked[0] - all_of_it[0] < all_of_it[0] / 500  # a bit a token
        assert max(marked[i] / all_of_it[i] for i in (5, 6)) < 0.6


@pytest.mark.parametrize("method", ["sflora", "split-lora", "st-sflora-full"])
def test_an_image_run_with_a_tail_trains_what_it_does_without(tmp_path: Path, method: str) -> None:
    plain, u_shaped = (
        run(small_job(*changes, "training.rounds=1", method=method), tmp_path / name)
        for name, changes in (("plain", ()), ("u", ("model.tail=1",)))
    )
    if method != "st-sflora-full":  # whose one adapter has then a tail by device, averaged
        assert largest_difference(u_shaped.adapter, plain.adapter) < 2e-5
    assert u_shaped.rows[0].loss == pytest.approx(plain.rows[0].loss, rel=0.1)


def test_a_residual_network_trains_whole_with_a_tail(tmp_path: Path) -> None:
    model = write_resnet(tmp_path / "model")
    made = (
        run(
            small_job(
                *changes, "training.rounds=1", f"model.path={model}", "method.train=full",
                "training.lr=0.01", "model.image_size=32",
            ),
            tmp_path / name,
        )
        for name, changes in (("plain", ()), ("u", ("model.tail=1",)))
    )  # fmt: skip
    plain, u_shaped = made
    assert largest_difference(u_shaped.adapter, plain.adapter) < 1e-4


def test_the_size_of_pools_changes_nothing(language: Path, table: Path, tmp_path: Path) -> None:
    one, both = (
        run(text_job(language, table, "model.tail=1", f"training.pool={n}"), tmp_path / str(n))
        for n in (1, 2)
    )
    assert largest_difference(one.adapter, both.adapter) < 1e-5


def test_a_frozen_device_trains_its_tail_and_names_what_the_server_holds(
    language: Path, table: Path, tmp_path: Path
) -> None:
    changes = ("model.tail=1", "training.local_epochs=2", "training.rounds=2",
               "method.tail_downlink={bits: 32}", "method.tail_uplink={bits: 32}")  # fmt: skip
    named, sent = (
        run(
            text_job(
                language, table, *changes, *more, "method.uplink={codec: quantize, bits: 16}",
                f"method.uplink.reuse={reuse}", method="lean",
            ),
            tmp_path / reuse,
        )
        for reuse, more in (("true", ()), ("false", ()))
    )  # fmt: skip
    assert largest_difference(named.adapter, sent.adapter) < 1e-4
    up = [sum(t[0] for t in result.rows[-1].traffic.values()) for result in (named, sent)]
    assert up[0] < up[1] / 10
    before, after = (row.traffic[0] for row in (named.rows[0], named.rows[-1]))
    assert before[1] == after[1] == 0  # no gradient returns
    trained = {name for name, t in named.adapter.items() if "lora_B" in name and t.any()}
    assert {name.split(".")[2] for name in trained} == {"1", "2"}


EPOCHS = ("model.tail=1", "training.rounds=1", "training.local_epochs=3")


@pytest.fixture(scope="module")
def falling_loss(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The mean loss of three epochs with a tail, which a head that learns nothing has at 10 %
    more."""
    loss = run(small_job(*EPOCHS), tmp_path_factory.mktemp("epochs") / "run").rows[0].loss
    still = run(small_job(*EPOCHS, "training.lr=1e-9"), tmp_path_factory.mktemp("still") / "run")
    assert still.rows[0].loss > 1.1 * loss
    return loss


@pytest.mark.parametrize(
    "changes",
    [
        ("method.uplink.bits=8", "method.downlink.bits=8"),
        ("method.tail_downlink={bits: 4, levels: gaussian, rotate: true}",
         "method.tail_uplink={bits: 8, rounding: stochastic}"),
        ("method.uplink={codec: klt}",),
        ("method.downlink={codec: klt}", "training.rounds=2"),
        ("method.tail_downlink={codec: klt, rate_bits: 1}", "method.tail_uplink={codec: klt}",
         "method.tokens.keep=6", "training.rounds=2"),
        ("method.tokens.keep=6",),
        ("model.lora.dropout=0.2",),
        ("privacy.activation_noise=0.1", "trust.clip_activations=30"),
        ("trust.average=trimmed-mean", "trust.hostile=1", "devices.count=3"),
        ("privacy={unit: device, noise_multiplier: 0.01, clip_norm: 1}",),
    ],
)  # fmt: skip
def test_what_a_run_has_otherwise_goes_with_a_tail(
    tmp_path: Path, changes: tuple[str, ...], falling_loss: float
) -> None:
    if changes[0].startswith("privacy={unit"):
        pytest.importorskip("dp_accounting")
    found = run(
        small_job(*EPOCHS, *changes),
        tmp_path / "run",
    )
    row = found.rows[-1]
    assert row.accuracy is not None
    assert row.lost == []
    # As it falls without any of these; it stays where gradients are wrong or lost.
    assert found.rows[0].loss == pytest.approx(falling_loss, rel=0.05)
    if row.accuracy_through_cut is not None:
        assert row.accuracy_through_cut > 0.1
    again = cutlayer.evaluate(found.folder)
    assert again.accuracy == pytest.approx(row.accuracy)


def test_devices_sum_up_their_tails_securely(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    plain, summed = (
        run(
            small_job(
                "model.tail=1", "training.rounds=1", "devices.count=3",
                f"privacy.secure_sum={given}",
            ),
            tmp_path / given,
        )
        for given in ("false", "true")
    )  # fmt: skip
    assert largest_difference(summed.adapter, plain.adapter) < 1e-4


# ---- fitted codecs ----

KLT = "{codec: klt, rate_bits: 1}"
FITTED = (f"method.tail_downlink={KLT}", f"method.tail_uplink={KLT}")


def test_what_passes_the_tail_has_bases_of_its_own_after_the_first_round(
    language: Path, table: Path, tmp_path: Path
) -> None:
    job = text_job(language, table, "model.tail=1", *FITTED, "training.rounds=4")
    whole = run(job, tmp_path / "whole")
    coding = load_state(tmp_path / "whole" / "state.safetensors").coding
    first, second, third, _ = whole.rows
    assert bases_of(coding, GRADIENTS.start) == {}
    for way, place in ((FEATURES, 5), (FEATURE_GRADIENTS, 6)):
        ((cut, basis),) = bases_of(coding, way.start).items()
        assert (cut, kind_of(basis)) == (2, "basis")
        for device in range(2):
            assert second.traffic[device][place] < first.traffic[device][place] / 1.5  # 4 bits
    assert {t[4] for t in first.traffic.values()} == {0}
    assert min(t[4] for t in second.traffic.values()) > 1000
    assert max(t[4] for t in third.traffic.values()) < min(t[4] for t in second.traffic.values())
    with pytest.raises(KeyboardInterrupt):
        cutlayer.simulate(job, out=tmp_path / "cut", progress=StopAfter(2))
    resumed = cutlayer.resume(tmp_path / "cut")
    assert equal(whole.adapter, resumed.adapter)
    assert [row.traffic for row in whole.rows] == [row.traffic for row in resumed.rows]
    served = cutlayer.evaluate(whole.folder, through_cut=True)
    assert served.accuracy == pytest.approx(whole.rows[-1].accuracy_through_cut)


def test_a_plan_counts_what_passes_the_tail_at_its_rate() -> None:
    def bytes_at(rate: float) -> tuple[int, int]:
        given = f"{{codec: klt, rate_bits: {rate}}}"
        planned = cutlayer.plan(
            small_job(
                "model.tail=1", f"method.tail_downlink={given}", f"method.tail_uplink={given}",
                world={},
            )
        )  # fmt: skip
        traffic = planned.shape.traffic.values()
        return sum(t.features for t in traffic), sum(t.feature_gradients for t in traffic)

    for fine, coarse in zip(bytes_at(2), bytes_at(0.25), strict=True):
        assert 5 < fine / coarse < 8


# ---- planned, timed, counted ----


def test_a_plan_counts_the_bit_that_marks_a_token(language: Path, table: Path) -> None:
    def planned(*changes: str) -> int:
        job = text_job(language, table, "world={}", *changes)
        traffic = cutlayer.plan(job).shape.traffic.values()
        return sum(one.activations for one in traffic)

    # 19 of 24 samples are trained on, and a plan takes each to be as long as a text may be.
    marks = 8 * (planned(*LEARNT) - planned("model.tail=0"))
    assert marks == pytest.approx(19 * 40, rel=0.05)


def test_a_plan_knows_the_bytes_and_seconds_of_four_messages(
    language: Path, table: Path, tmp_path: Path
) -> None:
    job = small_job(
        "model.tail=1", "training.rounds=1", "world={server_flops: 1e12, energy: {forward: true}}"
    )
    planned, ran = cutlayer.plan(job), run(job, tmp_path / "run")
    (row,) = ran.rows
    for device, traffic in row.traffic.items():
        shape = planned.shape.traffic[device]
        expected = [shape.activations, shape.gradients, shape.features, shape.feature_gradients]
        assert [traffic[i] for i in (0, 1, 5, 6)] == pytest.approx(expected, rel=0.01)
        assert traffic[3] == pytest.approx(shape.adapter_up, rel=0.02)
    assert row.virtual_s == pytest.approx(row.planned_s, rel=0.02)
    assert planned.round_s == pytest.approx(row.virtual_s, rel=0.02)
    assert min(row.joules.values()) > 0
    shorter = cutlayer.plan(change_job(job, ["model.tail=null"]))
    assert shorter.round_s < planned.round_s
    page = cutlayer.report(ran.folder, out=tmp_path / "page.html").page
    assert "tail_uplink" in page.read_text()


# ---- over a network ----


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every frame and message that a device sends to its server."""
    pytest.importorskip("grpc")
    from cutlayer.network.device import join as joining
    from cutlayer.network.transport import messages
    from cutlayer.network.transport.connection import Connection

    real, found = joining.connect, []

    async def connect(*given: Any) -> Connection:
        connection = await real(*given)
        tell, send = connection.tell, connection.send

        async def telling(message: Any) -> None:
            found.append(messages.encode(message))
            await tell(message)

        async def sending(lane: Any, frame: Any) -> None:
            found.append(bytes(frame))
            await send(lane, frame)

        connection.tell, connection.send = telling, sending  # type: ignore[method-assign]
        return connection

    monkeypatch.setattr(joining, "connect", connect)
    return found


def served_run(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cutlayer.Result:
    from fleet_helpers import crowd, served

    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    count = job.devices.count
    with crowd() as devices:
        result = served(
            job, tmp_path / "net", lambda port: [devices.join(port, n) for n in range(count)]
        )
    assert devices.errors == {}
    return result


def traces(job: Job) -> dict[str, list[bytes]]:
    """What the labels and texts of the devices' batches would be in a frame."""
    from cutlayer.train.parts import load_parts
    from cutlayer.train.task import task_of

    parts = load_parts(job)
    task = task_of(job, parts.model.spec)
    found: dict[str, list[bytes]] = {"text": [], "ids": [], "packed": []}
    for passage in parts.train.inputs:
        found["text"] += [part.strip().encode() for part in (passage.prompt, passage.completion)]
        inputs = parts.preprocess([passage])
        ids = inputs["input_ids"][0]
        one = parts.train.subset(np.array([0]))
        targets = task.targets(one, inputs)[0]
        targets = targets[targets >= 0]
        for numbers in (ids, targets):
            for kind in ("<u1", "<u2", "<u4", "<i8"):
                found["ids"].append(numbers.numpy().astype(kind).tobytes())
        bits = label_bits(parts.model.spec.vocabulary + 1)
        stream = targets[:, None].numpy() >> np.arange(bits) & 1
        for shift in range(8):  # a text's targets stand anywhere in the stream of a batch
            shifted = np.concatenate([np.zeros(shift, np.int64), stream.reshape(-1)])
            packed = np.packbits(shifted.astype(np.uint8), bitorder="little").tobytes()
            found["packed"].append(packed[1:-1])
    return found


@pytest.mark.parametrize(
    "changes", [("model.tail=0",), LEARNT, ("model.tail=1",), ("model.tail=null",)]
)
def test_labels_and_texts_are_in_no_frame_of_a_run_with_a_tail(
    language: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    heard: list[bytes], changes: tuple[str, ...],
) -> None:  # fmt: skip
    job = text_job(language, table, *changes, "training.pool=1")
    alone, together = run(job, tmp_path / "alone"), served_run(job, tmp_path, monkeypatch)
    assert equal(alone.adapter, together.adapter)
    assert [row.traffic for row in alone.rows] == [row.traffic for row in together.rows]
    everything = b"\0".join(heard)
    seen = {
        name for name, parts in traces(job).items() if any(part in everything for part in parts)
    }
    # Without a tail the labels do travel, and this search finds them.
    assert seen == ({"packed"} if changes == ("model.tail=null",) else set())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ("method.uplink.bits=8", "method.downlink.bits=8"),
        (f"method.uplink={KLT}", f"method.downlink={KLT}", "training.rounds=3"),
    ],
    ids=["8 bits", "klt"],
)
def test_four_processes_with_labels_at_home_train_what_the_simulator_does(
    language: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    changes: tuple[str, ...],
) -> None:  # fmt: skip
    pytest.importorskip("grpc")
    from cutlayer.network.transport.connection import Connection
    from fleet_helpers import process, served

    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    job = text_job(
        language, table, "model.tail=1", "training.pool=1", "devices.count=4",
        "data.partition.min_samples=2", *changes,
    )  # fmt: skip
    came: list[bytes] = []  # all that reaches the server, before it is looked at
    real = Connection.feed

    def feed(connection: Connection, lane: Any, message: bytes) -> None:
        came.append(bytes(message))
        real(connection, lane, message)

    alone = run(job, tmp_path / "alone")
    monkeypatch.setattr(Connection, "feed", feed)
    devices: list[subprocess.Popen[bytes]] = []
    together = served(
        job, tmp_path / "net", lambda port: devices.extend(process(port, n) for n in range(4))
    )
    assert [device.wait(60) for device in devices] == [0] * 4
    assert equal(alone.adapter, together.adapter)
    assert [row.traffic for row in alone.rows] == [row.traffic for row in together.rows]
    everything = b"\0".join(came)
    assert len(everything) > sum(row.up_bytes for row in together.rows)
    assert not [part for parts in traces(job).values() for part in parts if part in everything]


def test_fitted_codecs_over_a_network_are_those_of_a_simulation(
    language: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    changes = ("model.tail=1", "training.pool=1", f"method.uplink={KLT}", f"method.downlink={KLT}")
    job = text_job(language, table, *changes, "training.rounds=3")
    alone, together = run(job, tmp_path / "alone"), served_run(job, tmp_path, monkeypatch)
    assert equal(alone.adapter, together.adapter)
    assert [row.traffic for row in alone.rows] == [row.traffic for row in together.rows]


@pytest.mark.parametrize(
    ("more", "of_gradients", "near"),
    [
        ("", "", 0.05),
        (", weighting: true", "", 0.1),
        (", weighting: true, fit: calibration", ", rounding: stochastic", 0.3),
    ],
    ids=["alike", "weighted", "own texts, gradients rounded at random"],
)
def test_learnt_tokens_over_a_network_are_those_of_a_simulation_and_of_a_run_that_goes_on(
    language: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    more: str, of_gradients: str, near: float,
) -> None:  # fmt: skip
    pytest.importorskip("grpc")
    down, up = (f"{one.removesuffix('}')}{more}" for one in FITTED)
    fitted = (f"{down}}}", f"{up}{of_gradients}}}")
    job = text_job(
        language, table, *LEARNT, *fitted, "training.pool=1", "training.rounds=3", method="lean"
    )
    alone, together = run(job, tmp_path / "alone"), served_run(job, tmp_path, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        cutlayer.simulate(job, out=tmp_path / "cut", progress=StopAfter(2))
    resumed = cutlayer.resume(tmp_path / "cut")
    for other in (together, resumed):
        assert equal(alone.adapter, other.adapter)
        assert [row.traffic for row in alone.rows] == [row.traffic for row in other.rows]
    coding = load_state(alone.folder / "state.safetensors").coding
    for way, at_random in ((FEATURES, False), (FEATURE_GRADIENTS, bool(of_gradients))):
        (basis,) = bases_of(coding, way.start).values()
        assert codec_of(basis).basis.head.dithered == at_random
    first, last = alone.rows[0], alone.rows[-1]
    passed = [sum(t[5] + t[6] for t in row.traffic.values()) for row in (first, last)]
    # What devices send first takes 4 bits.
    assert (passed[0] > 1.5 * passed[1]) == ("fit: calibration" not in more)
    assert max(t[0] for t in last.traffic.values()) < 300  # samples that the server holds
    # Of its own the server has three texts.
    assert last.perplexity_through_cut == pytest.approx(last.perplexity, rel=near)
    assert last.perplexity_through_cut != last.perplexity


def test_bits_over_a_network_are_those_of_a_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    changes = ("model.tail=1", "method.uplink={codec: klt}", "training.local_epochs=3")
    job = small_job(*changes, method="lean", devices={"count": 2})
    alone, together = run(job, tmp_path / "alone"), served_run(job, tmp_path, monkeypatch)
    assert equal(alone.adapter, together.adapter)
    assert [row.traffic for row in alone.rows] == [row.traffic for row in together.rows]


def of_gradients(edit: Callable[[FeatureGradientMessage], FeatureGradientMessage]) -> Any:
    """A frame of the gradient of features with something else in it; others as they are."""
    from cutlayer.settings.method import Quantizer
    from cutlayer.wire.codecs.quantized import QuantizedCodec

    def changed(frame: bytes) -> bytes:
        if kind_of(frame) != "feature gradient":
            return frame
        message = edit(decode_feature_gradient(frame))
        return encode_features([message], QuantizedCodec(Quantizer(entropy="none")))[0]

    return changed


def last_number_infinite(frame: bytes) -> bytes:
    from liars import mended

    if kind_of(frame) != "feature gradient":
        return frame
    return mended(frame[:-4] + struct.pack("<f", np.inf))


def of_activations(edit: Callable[[ActivationsMessage], ActivationsMessage]) -> Any:
    from cutlayer.settings.method import Quantizer
    from cutlayer.wire.codec import decode_activations, encode_activations

    def changed(frame: bytes) -> bytes:
        if kind_of(frame) not in ("activations", "token activations"):
            return frame
        return encode_activations(edit(decode_activations(frame)), Quantizer(entropy="none"))

    return changed


def lost_to(
    edits: Sequence[Any], job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> cutlayer.Result:
    """A served run of two honest devices and one for each edit of frames, which alone are lost."""
    from fleet_helpers import crowd, served
    from liars import Lie, tell

    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    tell(monkeypatch, {n + 2: Lie(activations=edit) for n, edit in enumerate(edits)})
    count = len(edits) + 2
    job = change_job(job, [f"devices.count={count}"])
    with crowd() as devices:
        result = served(
            job, tmp_path / "net", lambda port: [devices.join(port, n) for n in range(count)]
        )
    (row,) = result.rows
    assert set(row.lost) == set(range(2, count))
    return result


def test_an_answer_that_is_not_due_is_the_senders_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    edits = [
        of_gradients(lambda m: replace(m, step=m.step + 1)),
        of_gradients(lambda m: replace(m, device=0)),
        of_gradients(lambda m: replace(m, rows=m.rows[1:])),
        of_gradients(lambda m: replace(m, rows=m.rows[:, 1:])),
        of_gradients(lambda m: replace(m, rows=torch.full_like(m.rows, 3e38))),
        last_number_infinite,
        of_activations(lambda m: replace(m, num_classes=10)),
        lambda frame: b"x" if kind_of(frame) == "feature gradient" else frame,
    ]
    job = small_job(
        "model.tail=1", "training.rounds=1", "training.pool=4", "data.train_samples=200"
    )
    result = lost_to(edits, job, tmp_path, monkeypatch)
    assert all(torch.isfinite(tensor).all() for tensor in result.adapter.values())


@pytest.mark.parametrize("changes", [LEARNT, ("model.tail=0",)], ids=["learnt", "all"])
def test_a_batch_without_tokens_to_come_back_is_the_senders_own(
    language: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    changes: tuple[str, ...],
) -> None:  # fmt: skip
    pytest.importorskip("grpc")
    edits = [
        of_activations(lambda m: replace(m, mask=torch.zeros_like(m.mask))),
        of_activations(lambda m: replace(m, num_classes=m.num_classes + 1)),
        of_activations(lambda m: replace(m, labels=torch.zeros_like(m.labels))),
        of_activations(lambda m: replace(m, labels=m.labels * (torch.arange(4) > 0)[:, None])),
    ]
    job = text_job(language, table, *changes, "data.partition.min_samples=2", "training.pool=2")
    lost_to(edits if changes == LEARNT else edits[:2], job, tmp_path, monkeypatch)


# ---- refused ----


@pytest.mark.parametrize(
    ("changes", "method", "error", "message"),
    [
        (("model.tail=9",), "sflora", ModelError, r"model\.tail: 9 blocks after a cut at 2"),
        (("model.tail=4",), "sflora", JobError, r"model\.tail: 4 blocks .* leave the server none"),
        (("model.tail=1", "world={}"), "st-sflora", JobError, "assumes that devices hold no"),
        (("model.tail=1", "generated={generator: {source: demo}}"), "sflora", JobError,
         "needs the labels that devices share"),
        (("model.tail=1", "method.tail_uplink={reuse: true}"), "sflora", JobError,
         r"method\.tail_uplink\.reuse: .* never the same again"),
        (("model.tail=1", "method.tail_uplink={change: true}"), "sflora", JobError,
         r"method\.tail_uplink\.change: .* never the same again"),
        (("model.tail=1", "method.tail_uplink={bits: 8}"), "fedlora", JobError,
         r"method\.tail_uplink\.bits: .* does not split the model"),
        (("model.tail=1", "method.tail_downlink={variants: 2}"), "sflora", JobError,
         r"method\.tail_downlink\.variants: .* never the same again"),
        (("model.tail=1", "method.downlink={codec: klt, fit: calibration}"), "sflora",
         JobError, r"method\.downlink\.fit: .* crosses this way in the first round"),
        (("method.tail_uplink={bits: 8}",), "sflora", JobError, "the server runs the last blocks"),
        (("model.tail=1", "privacy={unit: sample, noise_multiplier: 1, clip_norm: 1}"), "sflora",
         JobError, r"privacy\.unit: 'sample' .* leave model\.tail out"),
        (("model.tail=1", "training.compile=true"), "sflora", JobError,
         r"training\.compile: .* with model\.tail"),
        (("model.tail=-1",), "sflora", JobError, r"model\.tail: -1"),
        (LEARNT, "sflora", JobError, r"method\.tail_tokens: 'learnt' is for language models"),
        (LEARNT[1:], "sflora", JobError, r"method\.tail_tokens: .* server runs the last blocks"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_tail_is_one_sentence(
    tmp_path: Path,
    changes: tuple[str, ...],
    method: str,
    error: type[CutlayerError],
    message: str,
) -> None:
    with pytest.raises(error, match=message) as caught:
        run(small_job(*changes, method=method), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_method_without_a_cut_goes_by_no_tail(tmp_path: Path) -> None:
    plain, tail = (
        run(
            small_job(*changes, "training.rounds=1", method="fedlora"), tmp_path / str(len(changes))
        )
        for changes in ((), ("model.tail=1",))
    )
    assert equal(plain.adapter, tail.adapter)
