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


def multiply(kernels, product, tile, x, values, scale, y, out):
    rows, inner = x.shape
    outer = len(values)
    grid = (outer // 16, -(-rows // tile), 1)
    launch(kernels("fp8.cu", 1), f"{product}_{tile}", grid, 256, x, values.view(torch.uint8), scale, y,
           out, rows, inner, outer)


@pytest.mark.parametrize("tile", FP8_TILES)
def test_products_are_those_of_the_rounded_numbers(kernels, tile):
    # Columns that are not alike for all warps, and rows that leave the last block a part.
    for rows, inner, outer in [(tile - 3, 640, 48), (tile + 5, 128, 144), (1, 64, 16), (tile, 3648, 64)]:
        x = exact(*rounded(rows_of_all_sizes(rows, inner, seed=1))).to(BFLOAT16)
        values, scale = rounded(rows_of_all_sizes(outer, inner, seed=2))
        expected = x.double() @ exact(values, scale).T
        before = noise(rows, outer, seed=3, dtype=BFLOAT16, scale=expected.std().item())
        for out, y in [(WIDE, torch.full((rows, outer), 7.0)), (NARROW, before.clone()), (ADDED, before.clone())]:
            multiply(kernels, "product", tile, x, values, scale, y, out)
            if out == WIDE:
                # Each product is exact: only the sums round.
                largest = (x.double().abs() @ exact(values, scale).abs().T).clamp(min=1e-30)
                assert ((y.double() - expected).abs() / largest).max() < 1e-6
            else:
                whole = expected + (before.double() if out == ADDED else 0.0)
                assert off(y, whole) < 3e-3


@pytest.mark.parametrize("tile", FP8_TILES)
def test_gates_are_applied_to_the_same_bits(kernels, tile):
    rows = tile + 3
    x = exact(*rounded(rows_of_all_sizes(rows, 640, seed=4))).to(BFLOAT16)
    values, scale = rounded(noise(96, 640, seed=6, scale=0.1).to(BFLOAT16))
    gate_up = torch.zeros(rows, 96, dtype=BFLOAT16)
    found, expected = (torch.zeros(rows, 48, dtype=BFLOAT16) for _ in range(2))
    multiply(kernels, "product", tile, x, values, scale, gate_up, NARROW)
    launch(kernels("layer.cu", 1), "silu_mul", (rows, 1, 1), 256, gate_up, expected, 48)
    multiply(kernels, "gated", tile, x, values, scale, found, NARROW)
    assert expected.abs().max() > 0 and torch.equal(found, expected)


def round_rows(kernels, rows):
    launch(kernels("fp8.cu", 1), "round_rows", (len(rows), 1, 1), 256, rows, rows.shape[1])
    return rows


def test_rows_are_rounded_by_the_kernels_that_make_them(kernels):
    x, norm = rows_of_all_sizes(9, 2120, seed=4), noise(2120, seed=5, dtype=BFLOAT16)
    found, made = torch.zeros_like(x), torch.zeros_like(x)
    launch(kernels("layer.cu", 1), "rms_norm", (9, 1, 1), 256, x, norm, made, 2120, 1e-6)
    launch(kernels("fp8.cu", 1), "rms_norm_rounded", (9, 1, 1), 256, x, norm, found, 2120, 1e-6)
    assert torch.equal(found, round_rows(kernels, made))
    gate_up = rows_of_all_sizes(9, 4400, seed=8)
    found, made = (torch.zeros(9, 2200, dtype=BFLOAT16) for _ in range(2))
    launch(kernels("layer.cu", 1), "silu_mul", (9, 2, 1), 256, gate_up, made, 2200)
    launch(kernels("fp8.cu", 1), "silu_mul_rounded", (9, 1, 1), 128, gate_up, found, 2200)
    assert torch.equal(found, round_rows(kernels, made))


def test_every_e4m3_is_multiplied_as_it_is(kernels):
    codes = torch.arange(256, dtype=torch.uint8)
    values = codes.view(torch.float8_e4m3fn)
    values = torch.where(values.float().isnan(), torch.zeros(()), values.float()).to(torch.float8_e4m3fn)
    # Row i of the matrix has number i in column i % 64 and zeros elsewhere.
    matrix = torch.zeros(256, 64)
    matrix[torch.arange(256), torch.arange(256) % 64] = values.float()
    x, y = torch.ones(1, 64, dtype=BFLOAT16), torch.zeros(1, 256)
    multiply(kernels, "product", 8, x, matrix.to(torch.float8_e4m3fn), torch.ones(256), y, WIDE)
    assert torch.equal(y[0], values.float())
