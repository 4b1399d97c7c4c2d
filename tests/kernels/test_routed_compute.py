"""The kernels between a training pass's tokens and their routed experts, in the emulator, beside
float64 and its gradients."""

import pytest
import torch
from emulated import launch, noise, off

BFLOAT16 = 1.7e-3
TOLERANCE = {torch.bfloat16: 1.5 * BFLOAT16, torch.float32: 1e-6}
both = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
TILE = 256


def library(kernels, dtype=torch.float32):
    return kernels("routed.cu", int(dtype == torch.bfloat16))


def choose(rows, experts, per_token):
    """Experts of which some are busy and some have no token."""
    generator = torch.Generator().manual_seed(rows)
    weights = torch.rand(experts, generator=generator).square()
    weights[experts // 2] = 0
    return torch.multinomial(weights.expand(rows, -1), per_token, generator=generator)


def sort(kernels, chosen, experts):
    pairs = chosen.numel()
    tiles = -(-pairs // TILE)
    counts = torch.full((tiles, experts), -1, dtype=torch.int32)
    place, ends = torch.full((pairs,), -1, dtype=torch.int32), torch.full((experts,), -1, dtype=torch.int32)
    launch(library(kernels), "count_pairs", (tiles, 1, 1), TILE, chosen, counts, pairs, experts)
    launch(library(kernels), "place_pairs", (tiles, 1, 1), TILE, chosen, counts, place, ends, pairs, experts)
    return place, ends


@pytest.mark.parametrize("rows, experts, per_token", [(150, 64, 6), (70, 256, 8), (4, 8, 3), (128, 300, 4)])
def test_pairs_have_their_places_in_the_order_of_the_experts(kernels, rows, experts, per_token):
    chosen = choose(rows, experts, per_token)
    place, ends = sort(kernels, chosen, experts)
    order = chosen.view(-1).sort(stable=True).indices
    expected = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    assert torch.equal(place.long(), expected)
    assert torch.equal(ends.long(), torch.bincount(chosen.view(-1), minlength=experts).cumsum(0))


def threads_of(width):
    return (width // 8 + 31) // 32 * 32


@both
@pytest.mark.parametrize("width", [264, 2048])
def test_rows_go_to_their_places_and_their_gradients_back(kernels, width, dtype):
    tokens, per_token, module = 7, 6, library(kernels, dtype)
    place, _ = sort(kernels, choose(tokens, 8, per_token), 8)
    x = noise(tokens, width, dtype=dtype)
    rows = torch.full((tokens * per_token, width), torch.nan, dtype=dtype)
    launch(module, "spread_rows", (tokens, 1, 1), threads_of(width), x, place, rows, per_token, width)
    expected = torch.empty_like(rows)
    expected[place.long()] = x.repeat_interleave(per_token, 0)
    assert torch.equal(rows, expected)
    slopes = noise(tokens * per_token, width, seed=1, dtype=dtype)
    gradient = torch.full_like(x, torch.nan)
    launch(module, "sum_rows", (tokens, 1, 1), threads_of(width), slopes, place, gradient, per_token, width)
    assert off(gradient, slopes.double()[place.long()].view(tokens, per_token, width).sum(1)) < TOLERANCE[dtype]


@both
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("width, per_token", [(264, 6), (2048, 1), (40, 32)])
def test_weighed_sums_with_their_gradients(kernels, width, per_token, adds, dtype):
    tokens, module = 5, library(kernels, dtype)
    place, _ = sort(kernels, choose(tokens, 70, per_token), 70)
    rows, more = noise(tokens * per_token, width, dtype=dtype), noise(tokens, width, seed=1, dtype=dtype)
    gates, slope = noise(tokens, per_token, seed=2), noise(tokens, width, seed=3, dtype=dtype)
    y, of_gates = torch.full_like(more, torch.nan), torch.full_like(gates, torch.nan)
    grid, threads = (tokens, 1, 1), threads_of(width)
    launch(module, "weigh_rows", grid, threads, rows, place, gates, more if adds else None, y, per_token, width)
    operands = [rows.double().requires_grad_(), gates.double().requires_grad_()]
    picked = operands[0][place.long()].view(tokens, per_token, width)
    expected = (operands[1][..., None] * picked).sum(1) + (more.double() if adds else 0)
    assert off(y, expected) < TOLERANCE[dtype]
    of_rows, weights = torch.autograd.grad(expected, operands, slope.double())
    launch(module, "weigh_rows_backward", grid, threads, slope, place, gates, rows, of_gates, per_token, width)
    assert off(rows, of_rows) < TOLERANCE[dtype]
    assert off(of_gates, weights) < 1e-6


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("experts, per_token", [(64, 6), (70, 8), (8, 1)])
def test_gates_with_the_gradients_of_all_scores(kernels, experts, per_token, normalise):
    rows, factor, module = 11, 2.5, library(kernels)
    scores, chosen = noise(rows, experts).sigmoid(), choose(rows, experts, per_token)
    gates, slope = torch.full((rows, per_token), torch.nan), noise(rows, per_token, seed=1)
    of_scores = torch.full_like(scores, torch.nan)
    operand = scores.double().requires_grad_()
    expected = operand.gather(1, chosen)
    if normalise:
        expected = expected / (expected.sum(1, keepdim=True) + 1e-20)
    expected = expected * factor
    sizes = (rows, experts, per_token, int(normalise), factor)
    launch(module, "weigh_experts", (2, 1, 1), 256, scores, chosen, gates, *sizes)
    assert off(gates, expected) < 1e-6
    launch(module, "weigh_experts_backward", (2, 1, 1), 256, slope, scores, chosen, of_scores, *sizes)
    (gradient,) = torch.autograd.grad(expected, operand, slope.double())
    # Gates that sum to the factor depend on the scores' differences alone, and one gate on nothing.
    assert (of_scores.double() - gradient).norm() < 1e-5 * factor * slope.norm()
