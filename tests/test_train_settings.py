"""What the training settings do: rates, bounds, losses, averages and changed images."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cutlayer
from cutlayer import simulate
from cutlayer.allocate.decision import base_decision
from cutlayer.data.dataset import Dataset
from cutlayer.data.image_augmentation import augment
from cutlayer.errors import CutlayerError, JobError, RunError
from cutlayer.job import Job, change_job
from cutlayer.record.checkpoint import RunState
from cutlayer.rounds.progress import Silent
from cutlayer.settings.training import Training
from cutlayer.simulation.local_fleet import LocalFleet
from cutlayer.train.adapter_upload import ClipUpdate
from cutlayer.train.link import LocalLink
from cutlayer.train.parts import Parts, first_adapter, load_parts, make_device, make_server
from cutlayer.train.result import RoundResult
from cutlayer.train.round import train_round
from cutlayer.train.schedule import rate_at
from cutlayer.train.server_optimizer import move_global
from cutlayer.train.task import Classification
from cutlayer.train.trained_stack import TrainedStack
from helpers import equal, largest_difference, moved, small_job

SGD = ("training.optimizer=sgd", "training.lr=0.05", "devices.count=2", "data.train_samples=48")


class LettingGo(LocalLink):
    """Loses the devices that send what will not do, as a network does."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.faults: dict[int, CutlayerError] = {}

    def reject(self, device: int, fault: CutlayerError) -> None:
        self.faults[device] = fault


@cache
def parts_of(job: Job) -> Parts:
    """What `load_parts` gives for a job, whatever its training and method."""
    return load_parts(job)


def parts_for(job: Job) -> Parts:
    plain = small_job()
    return parts_of(job.model_copy(update={"training": plain.training, "method": plain.method}))


def one_round(
    job: Job, indices: list[int] | None = None, round: int = 0
) -> tuple[dict, dict, RoundResult, LettingGo]:
    """The first adapter, the one after a round of some devices, the round and its link."""
    parts = parts_for(job)
    first = first_adapter(job, parts.model)
    server = make_server(job, parts, dict(first))
    indices = list(range(job.devices.count)) if indices is None else indices
    link = LettingGo(make_device(job, parts, i) for i in indices)
    result = train_round(job, round, dict.fromkeys(indices, base_decision(job)), link, server)
    return first, server.adapter, result, link


def rates(**settings: Any) -> list[float]:
    """Of a job of two rounds with four steps each."""
    training = Training(rounds=2, lr=1.0, **settings)
    return [rate_at(training, round, step, 4) for round in range(2) for step in range(4)]


def test_a_schedule_spans_the_steps_of_all_rounds() -> None:
    assert rates() == [1.0] * 8
    assert rates(schedule="linear") == pytest.approx([1 - k / 8 for k in range(8)])
    cosine = [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert rates(schedule="cosine") == pytest.approx(cosine)


def test_a_warm_up_comes_before_the_schedule() -> None:
    rising = [0.25, 0.5, 0.75, 1.0]
    assert rates(warmup_steps=4) == [*rising, 1, 1, 1, 1]
    assert rates(warmup_share=0.5) == [*rising, 1, 1, 1, 1]
    assert rates(warmup_steps=4, schedule="linear") == [*rising, 1, 0.75, 0.5, 0.25]


def test_the_rate_of_a_step_is_the_one_the_adapter_moves_by() -> None:
    plain = small_job(*SGD, "training.rounds=4", "training.batch_size=64", method="fedlora")
    falling = change_job(plain, ["training.schedule=linear"])
    first, whole, *_ = one_round(plain)
    _, half, *_ = one_round(falling, round=2)
    # One step a round: the third of four goes at half the rate.
    assert moved(first, whole) > 1e-4
    halfway = {name: (first[name] + whole[name]) / 2 for name in first}
    assert largest_difference(halfway, half) < 1e-6


def test_gradients_are_clipped_to_their_norm() -> None:
    settings = (*SGD, "training.batch_size=64")  # one step: what moves is lr times the gradient
    job = small_job(*settings, "training.clip_gradient_norm=0.01", method="fedlora")
    first, after, *_ = one_round(job, [0])
    change = torch.cat([(after[name] - first[name]).flatten() for name in first])
    assert change.norm().item() == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_a_device_changes_no_more_than_the_bound_on_either_side_of_the_cut() -> None:
    for method in ("fedlora", "sflora"):
        job = small_job(*SGD, "training.clip_update_norm=0.003", method=method)
        first, after, *_ = one_round(job, [0])
        change = torch.cat([(after[name] - first[name]).flatten() for name in first])
        assert change.norm().item() == pytest.approx(0.003, rel=1e-3)


def test_clipping_keeps_small_changes_the_direction_of_large_ones_and_statistics() -> None:
    clip = ClipUpdate(1.0, lambda name: name != "mean")
    start = {"a": torch.tensor([1.0, 0.0]), "mean": torch.tensor([0.0])}
    near = {"a": torch.tensor([1.3, 0.4]), "mean": torch.tensor([9.0])}
    far = {"a": torch.tensor([4.0, 4.0]), "mean": torch.tensor([9.0])}
    assert equal(clip.on_device(start, near), near)
    assert equal(clip.on_device(start, start), start)
    arrived, times = clip.on_server(start, far)
    assert times == pytest.approx(5.0)
    assert clip.on_server(start, near) == (near, 1.0)
    for clipped in (clip.on_device(start, far), arrived):
        assert clipped["a"].tolist() == pytest.approx([1.6, 0.8])
        assert clipped["mean"] == 9.0


def test_fedprox_pulls_towards_the_adapter_a_round_begins_with() -> None:
    job = small_job(*SGD, method="sflora")
    distances = []
    for mu in (0, 2, 8):
        first, after, *_ = one_round(change_job(job, [f"training.proximal={mu}"]))
        distances.append(sum((after[n] - first[n]).square().sum().item() for n in first))
    assert distances[0] > distances[1] > distances[2] > 0


def test_a_step_of_fedprox_is_that_of_its_formula() -> None:
    training = Training(optimizer="sgd", lr=0.5, proximal=0.1)
    stack = TrainedStack([{"a": torch.tensor([1.0])}], lambda name: True, training, 0, [2])
    stack.tensors["a"].fill_(3.0)
    stack.step([0], {"a": torch.tensor([[0.2]])}, 0)
    assert stack.adapter(0)["a"].item() == pytest.approx(3 - 0.5 * (0.2 + 0.1 * (3 - 1)))


@pytest.mark.parametrize(
    "setting",
    ["label_smoothing=0.2", "class_weights=[1,2,3,4,5,6,7,8,9,10]", "proximal=1",
     "schedule=cosine", "warmup_share=0.5", "image_augmentation=[flip,crop,randaugment]"],
)  # fmt: skip
def test_split_training_stays_equal_to_training_the_whole_model(setting: str) -> None:
    job = small_job(*SGD, f"training.{setting}", "model.cut=2")
    _, split, *_ = one_round(job)
    _, whole, *_ = one_round(small_job(*SGD, f"training.{setting}", method="fedlora"))
    _, plain, *_ = one_round(small_job(*SGD, method="fedlora"))
    assert largest_difference(split, whole) < 1e-6
    assert moved(plain, whole) > 1e-5


def test_smoothing_and_weights_are_those_of_the_formula() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]]), torch.tensor([0, 2])
    logs = logits.log_softmax(1)
    task = Classification(3, weights=(1.0, 1.0, 4.0))
    wanted = -(logs[0, 0] + 4 * logs[1, 2]) / 5
    assert task.losses(logits, [labels]).item() == pytest.approx(wanted.item())
    one, other = Classification(3, smoothing=0.3).losses(logits, [labels[:1], labels[1:]])
    assert one.item() == pytest.approx(-(0.7 * logs[0, 0] + 0.3 * logs[0].mean()).item())
    assert other.item() == pytest.approx(-(0.7 * logs[1, 2] + 0.3 * logs[1].mean()).item())


def test_the_server_moves_by_momentum_as_computed_by_hand() -> None:
    training = Training(server_optimizer="momentum", server_momentum=0.5, server_lr=2.0)
    adapter, moments = {"a": torch.tensor([1.0])}, {}
    found = []
    for average in (1.5, 2.0):
        one = {"a": torch.tensor([average])}
        adapter, moments = move_global(training, adapter, one, moments, lambda name: True)
        found.append(adapter["a"].item())
    # v = 0.5, w = 1 + 2 * 0.5 = 2; then v = 0.25 + (2 - 2) = 0.25, w = 2.5.
    assert found == [2.0, 2.5]


def test_the_server_moves_by_adam_as_computed_by_hand() -> None:
    training = Training(
        server_optimizer="adam", server_momentum=0.5, server_beta2=0.75, server_epsilon=0.1
    )
    start = {"a": torch.tensor([1.0]), "idle": torch.tensor([5.0]), "mean": torch.tensor([0.0])}
    average = start | {"a": torch.tensor([1.4]), "mean": torch.tensor([3.0])}
    adapter, moments = move_global(training, start, average, {}, lambda name: name != "mean")
    # m = 0.2, v = 0.25 * 0.16 = 0.04, the default rate is 0.01.
    assert adapter["a"].item() == pytest.approx(1 + 0.01 * 0.2 / (0.2 + 0.1))
    assert adapter["idle"] == 5.0  # nobody trained it
    assert adapter["mean"] == 3.0  # a running statistic
    assert set(moments["variance"]) == {"a"}


EVERYTHING = (
    "training.schedule=cosine", "training.warmup_steps=2", "training.clip_gradient_norm=0.5",
    "training.label_smoothing=0.1", "training.class_weights=[1,2,1,2,1,2,1,2,1,2]",
    "training.proximal=0.1", "training.clip_update_norm=0.05",
    "training.image_augmentation=[flip,crop]", "devices.count=3", "data.train_samples=72",
)  # fmt: skip


@pytest.mark.parametrize("server", ["momentum", "adam"])
def test_a_resumed_run_ends_as_an_uninterrupted_one_with_every_setting(
    tmp_path: Path, server: str
) -> None:
    job = small_job(*EVERYTHING, f"training.server_optimizer={server}", "training.rounds=3")

    class Stop(Silent):
        def round_done(self, row: Any) -> None:
            if row.round == 1:
                raise KeyboardInterrupt

    whole = simulate(job, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        simulate(job, out=tmp_path / "cut", progress=Stop())
    assert equal(cutlayer.resume(tmp_path / "cut").adapter, whole.adapter)


def test_a_network_ends_where_the_simulator_does_with_every_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    from fleet_helpers import served_to_all

    monkeypatch.setenv("CUTLAYER_CACHE", str(tmp_path / "cache"))
    job = small_job(*EVERYTHING, "training.server_optimizer=momentum", method="tsflora")
    alone = simulate(job, out=tmp_path / "alone")
    together = served_to_all(job, tmp_path / "net", 3)
    assert equal(alone.adapter, together.adapter)
    assert [row.device_loss for row in alone.rows] == [row.device_loss for row in together.rows]


def poisoned(monkeypatch: pytest.MonkeyPatch, labels: torch.Tensor) -> None:
    """Let the batch with these labels have a finite loss with a gradient that is none."""
    losses = Classification.losses

    def with_poison(self: Classification, outputs: torch.Tensor, targets: Any) -> torch.Tensor:
        found = list(losses(self, outputs, targets))
        for place, (rows, goal) in enumerate(
            zip(torch.split(outputs, [len(t) for t in targets]), targets, strict=True)
        ):
            if torch.equal(goal, labels):
                found[place] = found[place] + (0 * rows.sum()).sqrt()
        return torch.stack(found)

    monkeypatch.setattr(Classification, "losses", with_poison)


@pytest.mark.parametrize("server_adapter", ["shared", "averaged", "in-turn"])
def test_a_gradient_that_is_not_finite_costs_only_the_device_that_has_it(
    monkeypatch: pytest.MonkeyPatch, server_adapter: str
) -> None:
    job = small_job(
        "training.pool=4", "training.optimizer=sgd", f"method.server_adapter={server_adapter}"
    )
    _, others, *_ = one_round(job, [0, 2, 3])
    device = make_device(job, parts_for(job), 1)
    poisoned(monkeypatch, torch.from_numpy(device.first_batch(0).labels))
    _, found, result, link = one_round(job)
    assert result.lost == [1]
    assert "gradient of device 1 is not finite in round 0, step 0" in str(link.faults[1])
    assert largest_difference(others, found) < 1e-6


def test_a_gradient_that_is_not_finite_stops_a_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job(method="fedlora")
    device = make_device(job, parts_for(job), 2)
    poisoned(monkeypatch, torch.from_numpy(device.first_batch(0).labels))
    with pytest.raises(RunError, match="gradient of device 2 is not finite in round 0, step 0"):
        simulate(job, out=tmp_path / "run")


def test_devices_keep_neither_adapter_nor_optimiser_after_a_round() -> None:
    job = small_job("training.rounds=1")
    parts = parts_for(job)
    fleet = LocalFleet(job, parts)
    state = RunState(0, first_adapter(job, parts.model))
    fleet.gather(0, [0, 3], state)
    server = make_server(job, parts, state.adapter)
    decisions = dict.fromkeys([0, 3], base_decision(job))
    result = train_round(job, 0, decisions, fleet.link, server)
    devices = fleet.link.devices.values()
    assert all(device.adapter and device.stack for device in devices)
    fleet.release(result, state, server.coding)
    assert not any(device.adapter or device.stack for device in devices)


def test_images_change_by_sample_and_visit_and_not_by_batch() -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    kinds = ("flip", "crop", "randaugment")

    def changed(rows: list[int], visit: int) -> torch.Tensor:
        rngs = [np.random.default_rng([row, visit]) for row in rows]
        return augment(images[rows], kinds, rngs)

    together = changed([0, 1, 2], 0)
    assert together.shape == images.shape
    assert together.dtype == images.dtype
    assert torch.equal(together[1:2], changed([1], 0))
    assert not torch.equal(together, changed([0, 1, 2], 1))
    assert not torch.equal(together, images)


def test_a_flip_and_a_crop_are_what_they_are_called() -> None:
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    flipped = [augment(image, ["flip"], [np.random.default_rng(seed)]) for seed in range(20)]
    assert any(torch.equal(one, image) for one in flipped)
    assert any(torch.equal(one, image.flip(-1)) for one in flipped)
    for seed in range(20):
        moved_image = augment(image, ["crop"], [np.random.default_rng(seed)])[0, 0]
        inside = moved_image[1:-1, 1:-1]
        assert torch.equal(inside - inside[0, 0], image[0, 0, 1:-1, 1:-1] - image[0, 0, 1, 1])


def test_a_device_sees_its_images_anew_in_every_epoch() -> None:
    job = small_job("training.image_augmentation=[randaugment]", "training.local_epochs=2")
    device = make_device(job, parts_for(job), 0)
    device.begin(0, base_decision(job), None)
    pictures: dict[int, list[torch.Tensor]] = {}
    for step in range(device.steps):
        batch: Dataset = device.batch(step)
        for sample, image in zip(device._batches[step], batch.inputs, strict=True):
            pictures.setdefault(int(sample), []).append(image)
    assert all(len(pair) == 2 for pair in pictures.values())
    assert not all(torch.equal(*pair) for pair in pictures.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.warmup_steps=3", "training.warmup_share=0.1"], "give one of them"),
        (["training.server_lr=0.1"], "server_optimizer 'average' does not use it"),
        (["training.server_optimizer=momentum", "training.server_beta2=0.9"], "take adam"),
        (["training.clip_gradient_norm=0"], "training.clip_gradient_norm: 0 will not do"),
        (["training.class_weights=[1,0]"], "training.class_weights: 0"),
        (["training.image_augmentation=[blur]"], "training.image_augmentation: 'blur'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(JobError) as caught:
        small_job(*settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.class_weights=[1,2]"], "2 numbers for data of 10 classes"),
        (["method.aggregate=none"], "averages nothing"),
    ],
)
def test_settings_that_do_not_fit_data_or_method_are_refused_before_a_folder_is_made(
    tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        simulate(small_job(*settings), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
