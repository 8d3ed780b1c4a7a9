"""Quantisation: packing, levels, rounding, ranges, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from cutlayer.errors import FrameError, RunError
from cutlayer.settings.method import Quantizer
from cutlayer.wire.bit_stream import pack_bits, unpack_bits
from cutlayer.wire.dequantize import dequantize
from cutlayer.wire.frame_bytes import body_bytes
from cutlayer.wire.levels import gaussian_levels
from cutlayer.wire.quantize import quantize
from cutlayer.wire.rotate import rotate, unrotate


def through(x: Tensor, quantizer: Quantizer, seed: int = 0) -> Tensor:
    body = quantize(x, quantizer, torch.Generator().manual_seed(seed))
    assert len(body) == body_bytes(*x.shape, quantizer)
    return dequantize(body, *x.shape, quantizer)


def normal(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@given(bits=st.integers(1, 8), count=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
def test_packed_codes_are_a_little_endian_bit_stream(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, 8 * count, dtype=np.uint8)
    packed = pack_bits(torch.from_numpy(codes.copy()), bits)
    stream = sum(int(code) << (bits * i) for i, code in enumerate(codes))
    assert packed.numpy().tobytes() == stream.to_bytes(count * bits, "little")
    assert np.array_equal(unpack_bits(packed, bits).numpy(), codes)


@pytest.mark.parametrize(
    ("bits", "table", "error"),
    [
        # Max, Quantizing for Minimum Distortion, 1960, Table I.
        (1, [0.7980], 0.3634),
        (2, [0.4528, 1.510], 0.1175),
        (3, [0.2451, 0.7560, 1.344, 2.152], 0.03454),
        (4, [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], 0.009497),
    ],
)
def test_gaussian_levels_are_those_of_max(bits: int, table: list[float], error: float) -> None:
    levels = gaussian_levels(bits)
    np.testing.assert_allclose(levels[2 ** (bits - 1) :], table, rtol=5e-4)
    z = normal(400, 500)
    y = through(z, Quantizer(bits=bits, levels="gaussian", per="tensor"))
    assert (z - y).square().mean().item() == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("bits", range(1, 9))
def test_gaussian_levels_meet_both_of_lloyds_conditions(bits: int) -> None:
    levels = torch.from_numpy(gaussian_levels(bits))
    edges = (levels[1:] + levels[:-1]) / 2
    # Each level against its cell's mean by brute quadrature, independent of the solver.
    grid = torch.linspace(-9, 9, 2_000_001, dtype=torch.float64)
    density = (-grid.square() / 2).exp()
    cell = torch.bucketize(grid, edges)
    mass = torch.zeros_like(levels).index_add(0, cell, density)
    moment = torch.zeros_like(levels).index_add(0, cell, density * grid)
    torch.testing.assert_close(moment / mass, levels, rtol=0, atol=2e-3)
    torch.testing.assert_close(levels, -levels.flip(0))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("per", ["token", "tensor"])
def test_gaussian_codes_are_the_nearest_level_times_the_rms(bits: int, per: str) -> None:
    x = normal(40, 300) * torch.logspace(-8, -5, 40)[:, None]
    y = through(x, Quantizer(bits=bits, levels="gaussian", per=per))
    groups = x.double() if per == "token" else x.double().view(1, -1)
    rms = groups.square().mean(1, keepdim=True).sqrt()
    z = groups / rms
    best = (z.unsqueeze(-1) - torch.from_numpy(gaussian_levels(bits))).abs().min(-1).values
    # The RMS travels as float16: 2^-11 off, which moves z, and what comes back, by as much.
    slack = 2.0**-10 * (best + z.abs()) + 1e-5
    assert ((y.double().view(groups.shape) / rms - z).abs() <= best + slack).all()


@settings(max_examples=200, deadline=None)
@given(
    bits=st.integers(1, 8),
    per=st.sampled_from(["token", "tensor"]),
    rounding=st.sampled_from(["nearest", "stochastic"]),
    exponent=st.floats(-30, 30),
    offset=st.floats(-3, 3),
    seed=st.integers(0, 10**6),
)
def test_uniform_error_is_within_a_step_of_the_range(
    bits: int, per: str, rounding: str, exponent: float, offset: float, seed: int
) -> None:
    x = (normal(7, 33, seed) + offset) * 10.0**exponent
    y = through(x, Quantizer(bits=bits, per=per, rounding=rounding), seed)
    groups = x if per == "token" else x.view(1, -1)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    # Ends travel as float16 of the largest magnitude: each may lie 2^-10 of itself further out.
    span = high - low + 2.0**-10 * (low.abs() + high.abs()) + 2.0**-23 * x.abs().max()
    share = 0.5 if rounding == "nearest" else 1.0
    error = (x - y).abs().view(groups.shape)
    assert (error <= 1.001 * share * span / (2**bits - 1)).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_uniform_levels_are_two_to_the_bits_and_hold_both_ends(bits: int) -> None:
    x = torch.linspace(-1, 1, 5001).view(1, -1)
    levels = through(x, Quantizer(bits=bits)).unique()
    torch.testing.assert_close(levels, torch.linspace(-1, 1, 2**bits))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7, 1e-6, 1e-30, 1e-44, 6e37])
@pytest.mark.parametrize("levels", ["uniform", "gaussian"])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_constant_tokens_are_safe(value: float, levels: str, bits: int) -> None:
    x = torch.full((3, 16), value)
    y = through(x, Quantizer(bits=bits, levels=levels))
    assert y.isfinite().all()
    assert (y[:, 0] == y[:, 1]).all()
    if levels == "uniform":
        torch.testing.assert_close(y, x, rtol=1e-3, atol=0)
    x[1] = 0.0
    assert (through(x, Quantizer(bits=bits, levels=levels))[1] == 0).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("per", ["token", "tensor"])
def test_stochastic_rounding_is_unbiased(bits: int, per: str) -> None:
    x = normal(4, 32) * 1e-6
    quantizer = Quantizer(bits=bits, per=per, rounding="stochastic")
    rng = torch.Generator().manual_seed(1)
    draws = torch.stack(
        [dequantize(quantize(x, quantizer, rng), 4, 32, quantizer) for _ in range(3000)]
    ).double()
    standard_error = draws.std(0) / 3000**0.5
    step = (x.max() - x.min()) / (2**bits - 1)
    assert draws.std(0).max() > 0.2 * step / 2**0.5
    assert ((draws.mean(0) - x).abs() <= 5 * standard_error + 2e-4 * step).all()
    nearest = through(x, Quantizer(bits=bits, per=per)).double()
    assert ((nearest - x).abs() > 5 * standard_error + 2e-4 * step).any()


def test_stochastic_rounding_follows_its_generator() -> None:
    x = normal(4, 33)
    quantizer = Quantizer(bits=3, rounding="stochastic")
    assert torch.equal(through(x, quantizer, 1), through(x, quantizer, 1))
    assert not torch.equal(through(x, quantizer, 1), through(x, quantizer, 2))
    with pytest.raises(ValueError, match="rng"):
        quantize(x, quantizer)


def test_stochastic_rounding_between_gaussian_levels_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match=r"rounding 'stochastic'.*set levels to 'uniform'"):
        Quantizer(bits=4, levels="gaussian", rounding="stochastic")


def test_16_and_32_bits_pass_through_bit_for_bit() -> None:
    x = normal(5, 7) * torch.logspace(-40, 30, 5)[:, None]
    x[0, :2] = torch.tensor([-0.0, 1e-45])
    assert torch.equal(through(x, Quantizer()).view(torch.int32), x.view(torch.int32))
    assert torch.equal(through(x, Quantizer(bits=16)), x.to(torch.bfloat16).float())


def test_4_bits_a_token_are_nearly_8_times_smaller() -> None:
    size = body_bytes(1600, 384, Quantizer(bits=4))
    assert 7.8 < 1600 * 384 * 4 / size < 8


def test_rotation_reduces_the_4_bit_error_on_outlier_channels() -> None:
    x = normal(200, 384)
    x[:, [3, 77, 200]] *= 40
    plain = Quantizer(bits=4)
    errors = {
        "plain": (through(x, plain) - x).square().mean(),
        "rotated": (unrotate(through(rotate(x, 9), plain), 9) - x).square().mean(),
    }
    assert errors["rotated"] < errors["plain"] / 4
    gaussian = Quantizer(bits=2, levels="gaussian")
    by_range = unrotate(through(rotate(x, 9), Quantizer(bits=2)), 9)
    by_gaussian = unrotate(through(rotate(x, 9), gaussian), 9)
    assert (by_gaussian - x).square().mean() < (by_range - x).square().mean()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("bits", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("levels", ["uniform", "gaussian"])
@pytest.mark.parametrize("per", ["token", "tensor"])
def test_non_finite_values_are_refused(bad: float, bits: int, levels: str, per: str) -> None:
    x = normal(6, 8)
    x[4, 3] = bad
    with pytest.raises(RunError, match="NaN, infinity or values beyond float32 in the gradient:"):
        quantize(x, Quantizer(bits=bits, levels=levels, per=per), what="gradient")


def test_ranges_that_float32_cannot_span_are_refused() -> None:
    x = torch.tensor([[3e38, -3e38, 0.0, 1.0]])
    with pytest.raises(RunError, match="beyond float32"):
        quantize(x, Quantizer(bits=4))
    with pytest.raises(RunError, match="beyond float32"):
        quantize(x, Quantizer(bits=4, levels="gaussian"))
    with pytest.raises(RunError, match="beyond float32"):
        quantize(torch.full((1, 2), 3.4028e38), Quantizer(bits=16))


@pytest.mark.parametrize(
    ("scale", "ends"),
    [
        (float("nan"), (0, 1)),
        (1.0, (1, 0)),
        (1.0, (0, float("inf"))),
        (3e38, (-1, 1)),
        (1e38, (0, 9)),
    ],
)
def test_forged_ranges_are_refused(scale: float, ends: tuple[float, float]) -> None:
    body = np.float32(scale).tobytes() + np.array(ends, np.float16).tobytes() + b"\x00"
    with pytest.raises(FrameError, match="ranges"):
        dequantize(body, 1, 2, Quantizer(bits=4))


def test_a_forged_rms_whose_levels_overflow_is_refused() -> None:
    body = np.float32(3e38).tobytes() + np.float16(1.0).tobytes() + b"\xff"
    with pytest.raises(FrameError, match="ranges"):
        dequantize(body, 1, 2, Quantizer(bits=4, levels="gaussian"))


def test_levels_that_are_not_known_are_refused_and_not_taken_for_gaussian_ones() -> None:
    body = np.float32(1).tobytes() + np.float16(1.0).tobytes() + b"\x00"
    with pytest.raises(FrameError, match="'own_levels:cubic' are not known here"):
        dequantize(body, 1, 2, Quantizer(bits=4, levels="own_levels:cubic"))
    given = np.linspace(-1, 1, 16, dtype=np.float32)
    assert dequantize(body, 1, 2, Quantizer(bits=4, levels="own_levels:cubic"), given).shape == (
        1,
        2,
    )


def test_forged_floats_are_refused() -> None:
    for bits, data in ((32, np.float32(np.nan).tobytes()), (16, b"\x80\x7f")):
        with pytest.raises(FrameError, match="NaN"):
            dequantize(data, 1, 1, Quantizer(bits=bits))
