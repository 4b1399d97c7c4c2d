"""The kernels of products in FP8 compute what they should: their text in the emulator, beside libtorch's
own rounding and products in float64."""

import pytest
import torch
from emulated import FP8_TILES, launch, noise, off

BFLOAT16 = torch.bfloat16
WIDE, NARROW, ADDED = 0, 1, 2


def rounded(rows):
    """As daemon/torch/shim/fp8.cpp rounds: e4m3, and a power of two for each row."""
    largest = rows.abs().amax(-1, keepdim=True).float()
    exponent = (largest / 448.0).log2().ceil()
    scale = exponent.nan_to_num(0.0, 0.0, 0.0).clamp(-100.0, 100.0).exp2()
    return (rows * scale.reciprocal().to(rows.dtype)).to(torch.float8_e4m3fn), scale


def exact(values, scale):
    return values.double() * scale.double()


def rows_of_all_sizes(count, width, seed=0):
    sizes = torch.logspace(-9, 5, count)[:, None]
    rows = noise(count, width, seed=seed) * sizes
    # Rows with numbers far below their largest, which become e4m3's smallest.
    rows[:, ::7] *= 1e-3
    rows[:, ::11] *= 1e-5
    return rows.to(BFLOAT16)


def test_rows_are_rounded_as_libtorch_rounds_them(kernels):
    rows = rows_of_all_sizes(40, 328)
    rows[3] = 0.0
    # Largest numbers at and around those of which the power changes.
    for row, largest in enumerate([448.0, 450.0, 446.0, 7.0, -3.5, 1e-33, 1e32], 5):
        rows[row] = (rows[row] / rows[row].abs().max()).clamp(-0.9, 0.9) * largest
        rows[row, 17] = largest
    found = rows.clone()
    launch(kernels("fp8.cu", 1), "round_rows", (len(rows), 1, 1), 256, found, rows.shape[1])
    expected = exact(*rounded(rows))
    assert torch.equal(found.double(), expected)
    assert off(found, rows.double()) > 0.01, "nothing was rounded"


@pytest.mark.parametrize("high, wide", FP8_TILES)
def test_products_are_those_of_the_rounded_numbers(kernels, high, wide):
    # Fewer rows than a block takes, and more; widths that leave the last block a part; columns that
    # are not alike for all warps.
    part = 16 * high * 2 + 16
    for rows, inner, outer in [(8 * wide - 3, 640, part), (8 * wide + 5, 128, 48), (1, 64, 16)]:
        x = exact(*rounded(rows_of_all_sizes(rows, inner, seed=1))).to(BFLOAT16)
        values, scale = rounded(rows_of_all_sizes(outer, inner, seed=2))
        expected = x.double() @ exact(values, scale).T
        grid = (-(-outer // (16 * high)), -(-rows // (8 * wide)), 1)
        before = noise(rows, outer, seed=3, dtype=BFLOAT16, scale=expected.std().item())
        for out, y in [(WIDE, torch.full((rows, outer), 7.0)), (NARROW, before.clone()), (ADDED, before.clone())]:
            launch(kernels("fp8.cu", 1), f"product_{high}_{wide}", grid, 256, x, values.view(torch.uint8),
                   scale, y, out, rows, inner, outer)
            if out == WIDE:
                # Each product is exact: only the sums round.
                largest = (x.double().abs() @ exact(values, scale).abs().T).clamp(min=1e-30)
                assert ((y.double() - expected).abs() / largest).max() < 1e-6
            else:
                whole = expected + (before.double() if out == ADDED else 0.0)
                assert off(y, whole) < 3e-3


def test_every_e4m3_is_multiplied_as_it_is(kernels):
    codes = torch.arange(256, dtype=torch.uint8)
    values = codes.view(torch.float8_e4m3fn)
    values = torch.where(values.float().isnan(), torch.zeros(()), values.float()).to(torch.float8_e4m3fn)
    # Row i of the matrix has number i in column i % 64 and zeros elsewhere.
    matrix = torch.zeros(256, 64)
    matrix[torch.arange(256), torch.arange(256) % 64] = values.float()
    x = torch.ones(1, 64, dtype=BFLOAT16)
    y = torch.zeros(1, 256)
    launch(kernels("fp8.cu", 1), "product_1_1", (16, 1, 1), 256, x,
           matrix.to(torch.float8_e4m3fn).view(torch.uint8), torch.ones(256), y, WIDE, 1, 64, 256)
    assert torch.equal(y[0], values.float())
