"""Levels of one's own: they travel in the header, and every other levels are refused."""

from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import own_levels
from cutlayer.errors import FrameError, JobError
from cutlayer.job import make_job
from cutlayer.settings.method import Quantizer
from cutlayer.simulation.simulate import simulate
from cutlayer.wire import frame
from cutlayer.wire.codec import (
    decode_activations,
    decode_gradient,
    encode_activations,
    encode_gradient,
)
from cutlayer.wire.headers import GradientHeader
from cutlayer.wire.messages import ActivationsMessage, GradientMessage


def message(hidden: torch.Tensor) -> ActivationsMessage:
    return ActivationsMessage(1, 0, 0, hidden, None, torch.zeros(len(hidden), dtype=torch.long), 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 40), st.booleans())
def test_each_value_becomes_the_nearest_of_ones_own_levels(
    bits: int, tokens: int, width: int, rotate: bool
) -> None:
    hidden = torch.randn(2, tokens, width, generator=torch.Generator().manual_seed(bits))
    own = Quantizer(bits=bits, levels="own_levels:cubic", rotate=rotate)
    got = decode_activations(encode_activations(message(hidden), own, rotation_seed=5)).hidden
    if rotate:
        return  # what is nearest is nearest after the rotation
    levels = torch.from_numpy(own_levels.cubic(bits)).float()
    rms = hidden.square().mean(-1, keepdim=True).sqrt()
    best = (hidden.unsqueeze(-1) / rms.unsqueeze(-1) - levels).abs().min(-1).values * rms
    # The RMS crosses the cut as a float16.
    assert ((got - hidden).abs() <= best + 2e-3 * (hidden.abs() + 3 * rms)).all()
    assert len(torch.unique(got[0, 0])) <= 2**bits


def test_who_reads_the_frame_needs_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.randn(1, 3, 8)
    own = Quantizer(bits=3, levels="own_levels:cubic")
    data = encode_gradient(GradientMessage(1, 0, 0, hidden, 0.5, None), own)
    monkeypatch.delattr(own_levels, "cubic")
    assert decode_gradient(data).gradient.shape == hidden.shape


def test_whole_floats_need_no_levels() -> None:
    hidden = torch.randn(1, 3, 8)
    data = encode_activations(message(hidden), Quantizer(bits=32, levels="own_levels:cubic"))
    assert torch.equal(decode_activations(data).hidden, hidden)


@pytest.mark.parametrize(
    "numbers",
    [(1.0, 2.0), (4.0, 3.0, 2.0, 1.0), (1.0, 2.0, 3.0, float("inf")), (0.0, 1.0, 2.0, 1e300)],
    ids=["too few", "falling", "infinite", "beyond float32"],
)
def test_forged_levels_are_refused(numbers: tuple[float, ...]) -> None:
    sent = GradientMessage(1, 0, 0, torch.randn(1, 2, 4), 0.5, None)
    data = encode_gradient(sent, Quantizer(bits=2, levels="own_levels:cubic", entropy="none"))
    header, body = frame.unpack(data, "gradient", GradientHeader, 2**20)
    tensor = msgspec.structs.replace(header.tensor, levels=numbers)
    forged = frame.pack("gradient", msgspec.structs.replace(header, tensor=tensor), bytes(body))
    with pytest.raises(FrameError, match="levels for 2 bits, not 4 finite ones that rise"):
        decode_gradient(forged)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("own_levels:missing", "cannot import 'own_levels:missing'"),
        ("no_such_module:f", "cannot import 'no_such_module:f'"),
        ("own_levels:NUMBER", "'own_levels:NUMBER' is not a function"),
        ("own_levels:too_few", r"gave \[1\] numbers for 1 bits: return 2 finite ones"),
        ("own_levels:falling", "each larger than the one before"),
        ("own_levels:endless", "return 2 finite ones"),
        ("own_levels:words", "gave no numbers"),
    ],
)
def test_a_job_with_other_levels_is_refused_before_it_trains(
    name: str, fault: str, tmp_path: Path
) -> None:
    job = make_job(
        {
            "data": {"train_samples": 40, "test_samples": 10},
            "devices": {"count": 2},
            "method": {"name": "sflora", "uplink": {"bits": 4, "levels": name}},
        }
    )
    with pytest.raises(JobError, match=fault):
        simulate(job, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
