"""AdamW's kernel and the square sums of gradients, in the emulator, beside float64."""

import struct

import pytest
import torch
from emulated import launch, noise, off

NARROW = {torch.bfloat16: 1, torch.float32: 0}
LR, DECAY, BETA1, BETA2, EPSILON = 1e-2, 0.1, 0.9, 0.999, 1e-8


def double(value):
    return struct.unpack("q", struct.pack("d", value))[0]


def step(module, weights, gradient, moments, published, t, scale, found_inf=0.0, aligned=True):
    flags = sum(NARROW[of.dtype] << bit for bit, of in enumerate([gradient, *moments]))
    launch(module, "adamw", (3, 1, 1), 64, weights, gradient, *moments, published,
           torch.tensor([float(t)]), scale, torch.tensor([found_inf]), len(weights), flags, int(aligned),
           *map(double, (LR, DECAY, BETA1, BETA2, EPSILON)))


@pytest.mark.parametrize("kinds", [(torch.float32,) * 3, (torch.bfloat16, torch.float32, torch.float32),
                                   (torch.bfloat16, torch.bfloat16, torch.bfloat16)])
@pytest.mark.parametrize("count, aligned", [(4000, True), (4003, True), (77, False), (3, True)])
def test_steps_follow_the_papers_equations(kernels, kinds, count, aligned):
    module = kernels("adamw.cu", 1)
    weights = noise(count)
    moments = [torch.zeros(count, dtype=kind) for kind in kinds[1:]]
    published = torch.zeros(count, dtype=torch.bfloat16)
    w, m, v = weights.double(), torch.zeros(count).double(), torch.zeros(count).double()
    for t in (1, 2, 3):
        gradient = noise(count, seed=t, dtype=kinds[0])
        scale = torch.tensor([2.5]) if t != 2 else None
        step(module, weights, gradient, moments, published, t, scale, aligned=aligned)
        g = gradient.double() / (2.5 if t != 2 else 1)
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
        w = w * (1 - LR * DECAY)
        w -= LR * m / (1 - BETA1**t) / ((v / (1 - BETA2**t)).sqrt() + EPSILON)
        if kinds[1] == torch.bfloat16:
            for own, of in zip(moments, (m, v)):
                assert off(own, of) < 2.5e-3
            m, v = (own.double() for own in moments)
    assert off(weights, w) < (1e-3 if kinds[1] == torch.bfloat16 else 1e-6)
    assert all(off(own, of) < 1e-6 for own, of in zip(moments, (m, v)))
    assert torch.equal(published, weights.bfloat16())


def test_nothing_changes_where_something_is_not_finite(kernels):
    weights, gradient = noise(20), noise(20, seed=1)
    moments, published = [torch.ones(20), torch.ones(20)], torch.ones(20, dtype=torch.bfloat16)
    before = weights.clone()
    step(kernels("adamw.cu", 1), weights, gradient, moments, published, 1, None, found_inf=1.0)
    assert torch.equal(weights, before) and all((of == 1).all() for of in [*moments, published])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("count", [4096, 5003])
def test_square_sums_of_all_numbers(kernels, count, dtype):
    gradient, parts = noise(count, dtype=dtype), torch.full((3,), torch.nan, dtype=torch.float64)
    launch(kernels("adamw.cu", 1), "square_sums", (3, 1, 1), 128, gradient, parts, count, NARROW[dtype], 1)
    assert off(parts.sum(), gradient.double().square().sum()) < 1e-12
