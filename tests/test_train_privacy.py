"""Differential privacy of adapters, noise on activations and labels: bounds and what is told."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cutlayer import resume, simulate
from cutlayer.allocate.decision import base_decision
from cutlayer.errors import JobError
from cutlayer.job import Job, change_job, dump_job
from cutlayer.model.bank import AdapterBank, Segment
from cutlayer.model.lora import Adapter, LoRALinear
from cutlayer.model.siblings import Siblings
from cutlayer.record.row_lines import line_of, row_of
from cutlayer.reports.build_report import report
from cutlayer.rounds.run_folder import saved_run
from cutlayer.settings.privacy import Privacy
from cutlayer.settings.training import Training
from cutlayer.train.accounting import epsilon_of, label_epsilon
from cutlayer.train.link import LocalLink
from cutlayer.train.noise import noisy_average, noisy_sums, with_activation_noise, with_label_noise
from cutlayer.train.parts import first_adapter, load_parts, make_device, make_server
from cutlayer.train.round import train_round
from cutlayer.train.trained_stack import TrainedStack
from helpers import equal, largest_difference, moved, small_job

SMALL = ("devices.count=2", "data.train_samples=48", "training.rounds=1")
SGD = (*SMALL, "training.optimizer=sgd", "training.lr=0.05")
SEEDED = "privacy.noise_from=seed"


@cache
def parts_of(job: Job) -> Any:
    return load_parts(job)


def trained(*settings: str, method: str = "sflora") -> tuple[Adapter, Adapter]:
    """The adapter before and after a round of two devices."""
    job = small_job(*settings, method=method)
    parts = parts_of(small_job(*SMALL, method=method))
    first = first_adapter(job, parts.model)
    server = make_server(job, parts, dict(first))
    count = job.devices.count
    link = LocalLink(make_device(job, parts, i) for i in range(count))
    train_round(job, 0, dict.fromkeys(range(count), base_decision(job)), link, server)
    return first, server.adapter


WIDE = ("privacy.unit=sample", "privacy.clip_norm=1e9", "privacy.noise_multiplier=0")


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("sflora", ()),
        ("fedlora", ()),
        ("sflora", ("method.server_adapter=shared",)),
        ("tsflora", ("method.server_adapter=in-turn",)),
    ],
)
def test_gradients_by_sample_add_up_to_those_of_the_batch(
    method: str, more: tuple[str, ...]
) -> None:
    first, plain = trained(*SGD, *more, method=method)
    _, by_sample = trained(*SGD, *more, *WIDE, method=method)
    assert moved(first, plain) > 1e-3
    assert largest_difference(plain, by_sample) < 1e-5


@pytest.mark.parametrize("method", ["sflora", "fedlora"])
def test_a_sample_moves_an_adapter_by_no_more_than_its_bound(method: str) -> None:
    """Plain SGD: 3 steps a device of rate 0.05 and a mean of gradients no longer than 0.01."""
    first, after = trained(*SGD, *WIDE, "privacy.clip_norm=0.01", method=method)
    change = math.sqrt(sum(float((after[n] - first[n]).square().sum()) for n in first))
    sides = math.sqrt(2) if method == "sflora" else 1.0
    assert 0 < change <= 3 * 0.05 * 0.01 * sides * 1.001


class Lora(nn.Module):
    """Two linear layers with LoRA as Opacus knows them: every factor a linear layer."""

    def __init__(self, bases: Sequence[nn.Linear], adapter: Adapter, scale: float) -> None:
        super().__init__()
        self.bases = [base.requires_grad_(False) for base in bases]  # no modules of its own
        self.scale = scale
        for name, tensor in adapter.items():
            linear = nn.Linear(tensor.shape[1], tensor.shape[0], bias=False)
            linear.weight.data = tensor.clone()
            setattr(self, name.replace(".weight", "").replace(".", "_"), linear)

    def forward(self, x: Tensor) -> Tensor:
        for number, base in enumerate(self.bases):
            a, b = (getattr(self, f"layer{number}_lora_{factor}") for factor in "AB")
            x = torch.tanh(base(x) + self.scale * b(a(x)))
        return x.mean(1)


def ours_and_theirs() -> tuple[dict[str, Tensor], Lora, Tensor, Tensor]:
    """Our gradient of a bounded batch of six, and the same model, inputs and labels for others."""
    torch.manual_seed(3)
    bases = [nn.Linear(5, 7), nn.Linear(7, 4)]
    adapter = {}
    for number, base in enumerate(bases):
        adapter[f"layer{number}.lora_A.weight"] = torch.randn(2, base.in_features)
        adapter[f"layer{number}.lora_B.weight"] = torch.randn(base.out_features, 2)
    x, labels = 3 * torch.randn(6, 3, 5), torch.randint(4, (6,))
    bank = AdapterBank()
    layers = [LoRALinear(b, f"layer{i}", bank, 0.5, 0.0, Siblings()) for i, b in enumerate(bases)]
    stack = TrainedStack([adapter], lambda name: True, Training(), 0, [1])
    opened = stack.open([0], [6])
    with bank.use([Segment(row, 1) for row in opened.rows], 6):
        hidden = x
        for layer in layers:
            hidden = torch.tanh(layer(hidden))
    loss = nn.functional.cross_entropy(hidden.mean(1), labels)
    found = torch.autograd.grad(loss, list(opened.leaves.values()))
    privacy = Privacy(unit="sample", clip_norm=0.3, noise_multiplier=0)
    ours = noisy_sums(dict(zip(opened.leaves, found, strict=True)), [6], privacy, [])
    return ours, Lora(bases, adapter, 0.5), x, labels


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient[0], theirs[name], rtol=1e-4, atol=1e-6)


def named(name: str) -> str:
    return name.removeprefix("_module.").replace("_lora_", ".lora_")


def test_bounded_gradients_are_those_of_one_sample_after_another() -> None:
    ours, model, x, labels = ours_and_theirs()
    sums: dict[str, Tensor] = {}
    lengths = []
    for one, label in zip(x, labels, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(one[None]), label[None]).backward()
        own = {named(name): p.grad.clone() for name, p in model.named_parameters()}
        lengths.append(math.sqrt(sum(float(g.square().sum()) for g in own.values())))
        for name, gradient in own.items():
            clipped = gradient * min(1.0, 0.3 / (lengths[-1] + 1e-6)) / 6
            sums[name] = sums.get(name, torch.zeros(())) + clipped
    assert min(lengths) < 0.3 < max(lengths)  # some are scaled down and some are not
    assert_same(ours, sums)


def test_bounded_gradients_are_those_of_opacus() -> None:
    opacus = pytest.importorskip("opacus", reason="needs opacus, which only compares")
    from opacus.optimizers import DPOptimizer

    ours, model, x, labels = ours_and_theirs()
    watched = opacus.GradSampleModule(model)
    optimizer = DPOptimizer(
        torch.optim.SGD(watched.parameters(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=0.3,
        expected_batch_size=6,
    )
    nn.functional.cross_entropy(watched(x), labels).backward()
    optimizer.pre_step()
    assert_same(ours, {named(name): p.grad for name, p in watched.named_parameters()})


def test_the_noise_of_a_batch_has_the_size_that_is_accounted_for() -> None:
    zero = {"a": torch.zeros(7, 200, 200)}
    privacy = Privacy(unit="sample", clip_norm=0.5, noise_multiplier=3.0)
    rngs = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    first, second = noisy_sums(zero, [4, 3], privacy, rngs)["a"]
    assert first.std().item() == pytest.approx(3 * 0.5 / 4, rel=0.02)
    assert second.std().item() == pytest.approx(3 * 0.5 / 3, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.02


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=6), st.floats(0.1, 10))
@settings(max_examples=40)
def test_a_device_moves_the_average_by_no_more_than_its_share(
    values: list[float], clip: float
) -> None:
    job = small_job(
        f"devices.count={len(values)}", "privacy.unit=device", f"privacy.clip_norm={clip}", SEEDED
    )
    start = {"a": torch.zeros(3), "b": torch.zeros(1)}
    sent = {d: {"a": torch.full((3,), v), "b": torch.tensor([-v])} for d, v in enumerate(values)}
    whole, excess = noisy_average(start, sent, job, 0, lambda name: True)
    fewer, _ = noisy_average(
        start, {d: one for d, one in sent.items() if d}, job, 0, lambda name: True
    )
    distance = math.sqrt(sum(float((whole[n] - fewer[n]).square().sum()) for n in whole))
    assert distance <= clip / len(values) * 1.0001 + 1e-5
    assert all(times > 1 for times in excess.values())


def delta_of(epsilon: float, mu: float) -> float:
    """Of the Gaussian mechanism with mu = sqrt(k) / sigma: Balle and Wang 2018, theorem 8."""

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize(
    ("changes", "mu"),
    [
        (("privacy.unit=device", "privacy.noise_multiplier=4"), math.sqrt(2) / 4),
        (("privacy.unit=sample", "privacy.noise_multiplier=2", "method=fedlora"), math.sqrt(6) / 2),
        # On two sides of the cut.
        (("privacy.unit=sample", "privacy.noise_multiplier=2"), math.sqrt(12) / 2),
    ],
)
def test_epsilon_is_dp_accountings_and_the_formula_s(changes: tuple[str, ...], mu: float) -> None:
    """Three rounds of which device 1 was in two, each of three epochs."""
    accounting = pytest.importorskip("dp_accounting", reason="needs dp-accounting")
    from dp_accounting import pld

    job = small_job("training.local_epochs=3", *changes)
    found = epsilon_of(job, [[0, 1], [1, 2], [3]])
    assert found is not None
    assert delta_of(found, mu) == pytest.approx(1e-5, rel=0.01)
    accountant = pld.PLDAccountant()
    accountant.compose(accounting.GaussianDpEvent(1 / mu))
    assert found == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


def test_the_record_and_the_report_tell_epsilon_delta_and_the_unit(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting", reason="needs dp-accounting")
    job = small_job(*SMALL, "training.rounds=2", "privacy.unit=device", SEEDED)
    rows = simulate(job, out=tmp_path / "run").rows
    told = [row.epsilon for row in rows]
    assert told == [epsilon_of(job, [[0, 1]]), epsilon_of(job, [[0, 1]] * 2)]
    assert told[0] < told[1]
    assert (rows[0].delta, rows[0].hidden_unit) == (1e-5, "device")
    assert row_of(line_of(rows[1])) == rows[1]
    report(tmp_path / "run", out=tmp_path / "page.html", images=0)
    page = (tmp_path / "page.html").read_text()
    assert "of a device, delta 1e-05" in page
    assert "says nothing of what the server sees" in page
    assert "an experiment, not a release" in page


def test_a_round_whose_row_is_damaged_still_counts(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting", reason="needs dp-accounting")
    job = small_job(*SMALL, "privacy.unit=device", SEEDED)
    simulate(job, out=tmp_path / "run")
    (tmp_path / "run" / "rounds.jsonl").write_text("damaged\n")
    (row,) = resume(tmp_path / "run", rounds=2).rows
    assert row.epsilon == epsilon_of(job, [[0, 1]] * 2)


def test_a_fleet_whose_samples_are_counted_does_not_grow(tmp_path: Path) -> None:
    job = small_job("privacy.unit=sample", SEEDED)
    (tmp_path / "job.yaml").write_text(dump_job(job))
    with pytest.raises(JobError, match=r"devices\.count: 5 .* would be counted anew"):
        saved_run(tmp_path, print, lambda job, say: load_parts(job), devices=5)


def test_seeded_noise_repeats_whatever_the_pool_and_secret_noise_never_does() -> None:
    hidden = (*SGD, "privacy.unit=sample", "privacy.activation_noise=0.1")
    _, one = trained(*hidden, SEEDED, "training.pool=1")
    _, other = trained(*hidden, SEEDED, "training.pool=2")
    _, secret = trained(*hidden)
    assert largest_difference(one, other) < 1e-5
    assert largest_difference(one, secret) > 1e-3


def test_replaced_labels_are_the_share_asked_for_and_stay() -> None:
    job = small_job("privacy.label_noise=0.4", SEEDED)
    parts = parts_of(small_job(*SMALL))
    data = parts.train
    noisy = [with_label_noise(data, job, device) for device in range(60)]
    changed = np.mean([one.labels != data.labels for one in noisy])
    assert changed == pytest.approx(0.4 * 9 / 10, abs=0.03)  # a tenth are drawn as they were
    assert (with_label_noise(data, job, 7).labels == noisy[7].labels).all()
    assert with_label_noise(data, small_job(), 7) is data
    # By hand: a label stays with 0.64, and becomes a given other with 0.04.
    assert label_epsilon(0.4, 10) == pytest.approx(math.log(0.64 / 0.04))


def test_a_sample_has_the_same_noise_at_each_visit() -> None:
    job = small_job("privacy.activation_noise=0.5", SEEDED)
    hidden = torch.randn(3, 50, 128, generator=torch.Generator().manual_seed(0))
    noisy = with_activation_noise(hidden, job, 1, [4, 9, 2])
    again = with_activation_noise(hidden.flip(0), job, 1, [2, 9, 4])
    assert torch.equal(noisy, again.flip(0))
    size = (noisy - hidden).square().mean().sqrt() / hidden.square().mean().sqrt()
    assert size.item() == pytest.approx(0.5, rel=0.02)


def test_nothing_asked_for_changes_nothing() -> None:
    _, plain = trained(*SGD)
    _, same = trained(*SGD, "privacy.unit=none")
    assert equal(plain, same)


@pytest.mark.parametrize(
    ("method", "change", "said"),
    [
        ("sflora", "privacy.unit=device trust.average=median", "no device changes how another"),
        ("sflora", "privacy.unit=device training.clip_update_norm=1", "privacy.clip_norm"),
        ("sflora", "privacy.unit=device method.train=full", "take train lora"),
        ("split-lora", "privacy.unit=device", "order is sequential"),
        ("local-lora", "privacy.unit=device", "averages nothing"),
        ("lean", "privacy.unit=sample", "codec klt"),
        ("sflora", "privacy.unit=device method.server_adapter=shared", "server_adapter averaged"),
        (
            "sflora",
            "privacy.unit=sample training.class_weights=[1,1,1,1,1,1,1,1,1,2]",
            "no sample changes how another",
        ),
        ("tsflora", "privacy.unit=sample method.uplink.per=tensor", "uplink.per token"),
        ("st-sflora", "privacy.unit=sample world={}", "does not cover the statistics of samples"),
        ("sflora", "privacy.clip_norm=2", "it needs privacy.unit"),
        ("sflora", "privacy.noise_from=seed", "it needs noise"),
    ],
)
def test_what_epsilon_would_not_cover_is_refused(method: str, change: str, said: str) -> None:
    job = change_job(small_job(method=method), change.split())
    with pytest.raises(JobError, match=said):
        load_parts(job)
