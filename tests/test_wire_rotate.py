"""The rotation is orthogonal, undone exactly, seeded, and spreads an outlier."""

import pytest
import torch

from cutlayer.wire.rotate import rotate, unrotate

WIDTHS = (1, 2, 3, 5, 7, 8, 24, 31, 48, 64, 128, 192, 312, 384, 768, 1024, 1280, 2048)


@pytest.mark.parametrize("width", WIDTHS)
def test_rotation_is_orthogonal_and_undone(width: int) -> None:
    eye = torch.eye(width, dtype=torch.float64)
    rotated = rotate(eye, 7)
    torch.testing.assert_close(rotated @ rotated.T, eye, rtol=0, atol=1e-13)
    torch.testing.assert_close(unrotate(rotated, 7), eye, rtol=0, atol=1e-13)


def test_blocks_are_sylvester_hadamard_matrices_behind_random_signs() -> None:
    matrix = rotate(torch.eye(384, dtype=torch.float64), 3).T
    parity = torch.tensor(
        [[(i & j).bit_count() % 2 for j in range(128)] for i in range(128)], dtype=torch.float64
    )
    hadamard = torch.block_diag(*[(1 - 2 * parity) / 128**0.5] * 3)
    signs = (matrix / hadamard.where(hadamard != 0, torch.inf)).sum(0) / 128
    torch.testing.assert_close(hadamard * signs, matrix)
    torch.testing.assert_close(signs.abs(), torch.ones(384, dtype=torch.float64))
    assert 130 < (signs > 0).sum() < 254


@pytest.mark.parametrize("width", [48, 127, 128, 312, 384, 768])
def test_an_outlier_channel_is_spread(width: int) -> None:
    assert rotate(torch.eye(width), 11).abs().max() <= 0.3


def test_shapes_strides_and_input_are_left_as_they_were() -> None:
    x = torch.randn(3, 96, 5).transpose(1, 2)
    before = x.clone()
    y = rotate(x, 1)
    assert y.shape == x.shape
    assert torch.equal(x, before)
    for width in (96, 312):
        many = torch.randn(1000, width)
        one_by_one = torch.cat([rotate(row, 1) for row in many.split(1)])
        torch.testing.assert_close(rotate(many, 1), one_by_one)


def test_seeds_differ_and_repeat() -> None:
    x = torch.randn(4, 64)
    assert torch.equal(rotate(x, 5), rotate(x, 5))
    assert not torch.allclose(rotate(x, 5), rotate(x, 6))
    # The signs are part of the format: another machine must draw the same.
    signs = rotate(torch.eye(8, dtype=torch.float64), 2**62)[:, 0].sign()
    assert signs.tolist() == [1, 1, -1, -1, -1, -1, 1, -1]
    assert rotate(torch.zeros(0, 64), 5).shape == (0, 64)
