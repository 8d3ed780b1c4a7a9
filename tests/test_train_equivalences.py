"""Methods that must agree do: what differs between them is only what they are named for."""

from dataclasses import replace
from pathlib import Path

import pytest

import tiny_models
from cutlayer import simulate
from cutlayer.job import Job, change_job
from cutlayer.planning.decide import base_decision
from cutlayer.train.link import LocalLink
from cutlayer.train.parts import first_adapter, load_parts, make_device, make_server
from cutlayer.train.round import train_round
from helpers import equal, largest_difference, moved, small_job


def trained(job: Job, order: list[int] | None = None) -> tuple[dict, dict]:
    """The first adapter of a job and the one after a round with all devices in an order."""
    parts = load_parts(job)
    first = first_adapter(job, parts.model)
    server = make_server(job, parts, dict(first))
    indices = order or list(range(job.devices.count))
    link = LocalLink(make_device(job, parts, i) for i in indices)
    train_round(job, 0, dict.fromkeys(indices, base_decision(job)), link, server)
    return first, server.adapter


def test_one_device_of_sflora_equals_split_lora(tmp_path: Path) -> None:
    one = "devices.count=1"
    parallel = simulate(small_job(one), out=tmp_path / "sflora")
    sequential = simulate(small_job(one, method="split-lora"), out=tmp_path / "split")
    assert equal(parallel.adapter, sequential.adapter)
    assert parallel.up_bytes == sequential.up_bytes


def test_tsflora_with_all_tokens_and_32_bits_equals_sflora(tmp_path: Path) -> None:
    off = ("method.tokens.keep=null", "method.uplink.bits=32", "method.downlink.bits=32")
    off += ("method.uplink.entropy=none", "method.downlink.entropy=none")
    plain = simulate(small_job(), out=tmp_path / "sflora")
    compressed = simulate(small_job(*off, method="tsflora"), out=tmp_path / "tsflora")
    assert equal(plain.adapter, compressed.adapter)
    # Headers name other settings, and the body says nothing of them: bytes differ by headers only.
    assert compressed.up_bytes == pytest.approx(plain.up_bytes, rel=1e-4)


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_split_training_without_compression_equals_training_the_whole_model(cut: int) -> None:
    first, split = trained(small_job(f"model.cut={cut}", "training.optimizer=sgd"))
    _, whole = trained(small_job("training.optimizer=sgd", method="fedlora"))
    assert moved(first, split) > 1e-4
    assert largest_difference(split, whole) < 1e-6


@pytest.mark.parametrize("method", ["sflora", "tsflora", "fedlora"])
def test_the_order_of_devices_changes_nothing(method: str) -> None:
    keep = () if method == "fedlora" else ("method.tokens.keep=20", "model.lora.dropout=0.2")
    job = small_job(*keep, method=method)
    _, forwards = trained(job, [0, 1, 2, 3])
    _, shuffled = trained(job, [2, 0, 3, 1])
    assert equal(forwards, shuffled)


def test_the_order_of_devices_matters_where_they_take_turns() -> None:
    job = small_job(method="split-lora")
    assert not equal(trained(job, [0, 1, 2, 3])[1], trained(job, [3, 2, 1, 0])[1])


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("server_adapter", ["averaged", "shared"])
def test_devices_in_one_pass_equal_devices_one_by_one(server_adapter: str, dropout: float) -> None:
    settings = (
        "training.optimizer=sgd",
        f"method.server_adapter={server_adapter}",
        f"model.lora.dropout={dropout}",
    )
    job = small_job(*settings)
    first, alone = trained(job)
    _, pooled = trained(change_job(job, ["training.pool=4"]))
    assert moved(first, alone) > 1e-4
    assert largest_difference(alone, pooled) < 1e-6


def test_centralized_equals_one_device_that_holds_all(tmp_path: Path) -> None:
    central = simulate(small_job(method="centralized"), out=tmp_path / "central")
    alone = simulate(small_job("devices.count=1", method="fedlora"), out=tmp_path / "alone")
    assert equal(central.adapter, alone.adapter)
    assert (central.up_bytes, central.down_bytes) == (0, 0)


def test_local_lora_shares_nothing(tmp_path: Path) -> None:
    result = simulate(small_job(method="local-lora"), out=tmp_path / "run")
    assert (result.up_bytes, result.down_bytes) == (0, 0)
    assert sorted(p.name for p in result.adapter_folder.iterdir()) == [
        f"device-{i:04d}" for i in range(4)
    ]


def test_a_shared_server_adapter_differs_from_averaged_ones() -> None:
    shared = trained(small_job("method.server_adapter=shared"))[1]
    assert not equal(shared, trained(small_job())[1])


def test_a_device_without_adapters_gets_no_gradients(tmp_path: Path) -> None:
    result = simulate(small_job("model.lora.side=server"), out=tmp_path / "run")
    activations, gradients, *_ = result.rows[0].traffic[0]
    assert activations > 0
    assert gradients == 0


FULL = ("method.train=full", "training.optimizer=sgd", "training.lr=0.02", "training.rounds=1")


def resnet_job(tmp_path: Path, method: str = "sflora") -> Job:
    path = tiny_models.write_resnet(tmp_path / "resnet", num_channels=1)
    model = {"path": str(path), "image_size": 28, "weights": "random"}
    return small_job(*FULL, method=method, model=model)


def test_a_fully_trained_resnet_is_split_anywhere_with_one_result(tmp_path: Path) -> None:
    # Split federated learning of every weight, whatever the cuts, is federated averaging.
    _, whole = trained(resnet_job(tmp_path, method="fedlora"))
    cuts = [0, 2, 1, 3]
    job = resnet_job(tmp_path)
    parts = load_parts(job)
    first = first_adapter(job, parts.model)
    server = make_server(job, parts, dict(first))
    link = LocalLink(make_device(job, parts, i) for i in range(4))
    decisions = {i: replace(base_decision(job), cut=cuts[i]) for i in range(4)}
    train_round(job, 0, decisions, link, server)
    assert moved(first, whole) > 1e-3
    assert largest_difference(whole, server.adapter) < 1e-5


def test_full_training_moves_the_backbone_and_sends_it(tmp_path: Path) -> None:
    lora = simulate(small_job("training.rounds=1", method="fedlora"), out=tmp_path / "lora")
    full = simulate(small_job(*FULL, method="fedlora"), out=tmp_path / "full")
    assert full.up_bytes > 10 * lora.up_bytes
    assert any("patch_embeddings" in name for name in full.adapter)


def test_sflam_in_full_trains_both_sides_of_the_embedding(tmp_path: Path) -> None:
    job = small_job(*FULL, method="sflam", world={"reference_loss_db": 75.0})
    result = simulate(job, out=tmp_path / "run")
    start = first_adapter(job, load_parts(job).model)
    assert all(t[1] > 0 and t[3] > 0 for t in result.rows[0].traffic.values())
    for part in ("patch_embeddings", "layers.3", "classifier"):
        names = [name for name in start if part in name]
        assert names
        assert any((start[name] - result.adapter[name]).abs().max() > 0 for name in names)
