"""What a job computes on and in which numbers: what is not there is refused, bfloat16 is near."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cutlayer import simulate
from cutlayer.errors import JobError
from cutlayer.job import change_job
from cutlayer.model import wide_attention
from cutlayer.model.bank import Segment
from cutlayer.model.weights import load_model
from cutlayer.train.parts import load_parts
from helpers import largest_difference, moved, small_job
from tiny_models import EVERY, LANGUAGE, inputs_of, random_adapter, settings, write


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "mps:0", ""])
def test_what_computes_nothing_is_refused(name: str) -> None:
    with pytest.raises(JobError, match=r"training\.compute: .*take auto, cpu, cuda, cuda:N"):
        small_job(f"training.compute={name!r}")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_hardware_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        JobError, match=rf"training\.compute: '{name}' was asked for but torch sees"
    ):
        simulate(small_job(f"training.compute={name}"), out=tmp_path / "run")


def test_a_gpu_beyond_those_there_are_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(JobError, match=r"'cuda:2' was asked for but torch sees 2 GPUs"):
        simulate(small_job("training.compute=cuda:2"), out=tmp_path / "run")


def test_tf32_is_refused_on_a_cpu(tmp_path: Path) -> None:
    job = small_job("training.precision=tf32", "training.compute=cpu")
    with pytest.raises(JobError, match=r"training\.precision: 'cpu' here has no tf32"):
        simulate(job, out=tmp_path / "run")


@pytest.mark.parametrize("able", [False, True])
def test_a_run_says_where_bfloat16_is_slow(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: able)
    said: list[str] = []
    for precision in ("float32", "bfloat16"):
        job = small_job(f"training.precision={precision}", "training.compute=cpu")
        load_parts(job, said.append)
    slow = [line for line in said if "multiplies no bfloat16 itself" in line]
    assert len(slow) == (0 if able else 1)


@pytest.mark.parametrize("method", ["sflora", "fedlora"])
def test_bfloat16_changes_what_is_trained_little(tmp_path: Path, method: str) -> None:
    job = small_job("training.rounds=1", "training.optimizer=sgd", "training.lr=0.1", method=method)
    job = change_job(job, ["training.compute=cpu", "devices.count=2", "data.train_samples=32"])
    exact = simulate(job, out=tmp_path / "float32")
    near = simulate(change_job(job, ["training.precision=bfloat16"]), out=tmp_path / "bfloat16")
    assert all(tensor.dtype == torch.float32 for tensor in near.adapter.values())
    start = simulate(change_job(job, ["training.lr=1e-30"]), out=tmp_path / "start")
    change = moved(start.adapter, exact.adapter)
    # 8 bits of mantissa round by 0.4 %; sums over blocks and steps stay well within a tenth.
    assert 0 < largest_difference(exact.adapter, near.adapter) < 0.1 * change
    assert near.rows[-1].loss == pytest.approx(exact.rows[-1].loss, rel=0.02)
    assert near.rows[-1].traffic == exact.rows[-1].traffic


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_has_the_gradients_of_float32(groups: int, masked: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    heads = {"query": 4, "key": 4 // groups, "value": 4 // groups}
    given = {
        name: torch.randn(2, many, 5, 8, generator=draw).bfloat16().requires_grad_()
        for name, many in heads.items()
    }
    wide = {name: tensor.detach().float().requires_grad_() for name, tensor in given.items()}
    mask = torch.arange(5) < torch.tensor([[[[3]]], [[[5]]]]) if masked else None
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = groups, True  # type: ignore[assignment]
    with torch.autocast("cpu", torch.bfloat16):
        near, _ = wide_attention.attend(module, **given, attention_mask=mask)
    exact, _ = sdpa_attention_forward(module, **wide, attention_mask=mask)
    assert torch.equal(near, exact.bfloat16())
    pull = torch.randn(exact.shape, generator=draw).bfloat16()
    pairs = zip(
        torch.autograd.grad(near, list(given.values()), pull),
        torch.autograd.grad(exact, list(wide.values()), pull.float()),
        strict=True,
    )
    assert all(torch.equal(one, other.bfloat16()) for one, other in pairs)


@pytest.mark.parametrize("family", [*EVERY, *LANGUAGE])
def test_a_cpu_attends_in_float32_while_it_trains_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    attend, seen = F.scaled_dot_product_attention, []

    def watched(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        wide = {tensor.dtype for tensor in (query, key, value)} == {torch.float32}
        seen.append(wide and not torch.is_autocast_enabled("cpu"))
        return attend(query, key, value, **settings)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    model = load_model(settings(write(tmp_path, family)), 3, 0).use("bfloat16")
    if not model.module._supports_sdpa:
        pytest.skip("the family computes attention by itself")
    model(inputs_of(model, 2), [Segment(random_adapter(model, 1), 2)])
    assert seen
    assert all(seen)
