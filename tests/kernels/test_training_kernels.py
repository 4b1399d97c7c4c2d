"""The kernels of a training pass compute what they should, forward and backward, on a machine
without a GPU: their text runs on the CPU (`emulator.h`), beside float64 and its gradients."""

import pytest
import torch
from emulated import launch, noise, off

# Rounding to bfloat16 is off by 2^-8 at most, over many numbers by about 1.7e-3 of their norm.
BFLOAT16 = 1.7e-3
TOLERANCE = {torch.bfloat16: 1.5 * BFLOAT16, torch.float32: 1e-6}
both = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])


def blocks_of(count, threads=256):
    return (-(-count // threads), 1, 1)


def library(kernels, name, dtype):
    return kernels(name, int(dtype == torch.bfloat16))


def wide(tensor):
    return tensor.double().requires_grad_()


# --- norms


def norm(x, weight, epsilon):
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight


@both
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("rows, width", [(5, 896), (70, 72)])
def test_sum_and_norm_with_their_gradients(kernels, rows, width, adds, dtype):
    module, epsilon = library(kernels, "train.cu", dtype), 1e-5
    threads = (width // 8 + 31) // 32 * 32
    x, more, of_sum, of_normed = (noise(rows, width, seed=i, dtype=dtype) for i in range(4))
    weight = (1 + noise(width, seed=4, scale=0.1)).to(dtype)
    total, normed, scale = x.clone(), torch.zeros_like(x), torch.zeros(rows)
    launch(module, "add_rms_norm", (rows, 1, 1), threads, x, more if adds else None, weight, total,
           normed, scale, width, epsilon)
    expected = (x + more) if adds else x
    assert torch.equal(total, expected)
    h, w = wide(expected), wide(weight)
    y = norm(h, w, epsilon)
    assert off(normed, y) < TOLERANCE[dtype]
    for with_sum in (True, False):
        # Fewer blocks than rows, and more than sum_parts has warps.
        gradient, blocks = torch.full_like(x, 9.0), 3 if with_sum else 40
        parts, of_weight = torch.full((blocks, width), 9.0), torch.zeros_like(weight)
        launch(module, "rms_norm_backward", (blocks, 1, 1), threads, of_normed,
               of_sum if with_sum else None, total, weight, scale, gradient, parts, rows, width)
        launch(module, "sum_parts", (-(-width // 32), 1, 1), 1024, parts, of_weight, blocks, width)
        loss = (y * of_normed.double()).sum() + with_sum * (h * of_sum.double()).sum()
        dx, dw = torch.autograd.grad(loss, [h, w], retain_graph=True)
        assert off(gradient, dx) < TOLERANCE[dtype]
        assert off(of_weight, dw) < TOLERANCE[dtype]


# --- feed-forward


@both
@pytest.mark.parametrize("rows, width", [(3, 4864), (9, 40)])
def test_silu_times_up_with_its_gradients(kernels, rows, width, dtype):
    module = library(kernels, "train.cu", dtype)
    gate_up, slope = noise(rows, 2 * width, dtype=dtype), noise(rows, width, seed=1, dtype=dtype)
    y = torch.zeros_like(slope)
    grid = blocks_of(rows * width // 8)
    launch(module, "silu_mul_rows", grid, 256, gate_up, y, rows, width)
    operand = wide(gate_up)
    gate, up = operand.chunk(2, -1)
    expected = torch.nn.functional.silu(gate) * up
    # Two roundings forward, as libtorch has them.
    assert off(y, expected) < 1.5 * TOLERANCE[dtype]
    launch(module, "silu_mul_backward", grid, 256, slope, gate_up, rows, width)
    (gradient,) = torch.autograd.grad(expected, operand, slope.double())
    assert off(gate_up, gradient) < 1.5 * TOLERANCE[dtype]


# --- rotation


@both
@pytest.mark.parametrize("heads, key_heads, head_dim", [(14, 2, 64), (3, 1, 128), (2, 2, 16)])
def test_rotation_with_its_gradients(kernels, heads, key_heads, head_dim, dtype):
    module, rows = library(kernels, "train.cu", dtype), 5
    angles = torch.arange(3.0, 3.0 + rows)[:, None] * 10000.0 ** -(torch.arange(head_dim // 2) / head_dim * 2)
    sines = torch.cat([-angles.sin(), angles.sin()], 1)
    table = torch.stack([torch.cat([angles.cos()] * 2, 1), sines], 1).float().contiguous()
    qkv = noise(rows, heads + 2 * key_heads, head_dim, dtype=dtype)
    operand = wide(qkv)
    cosines, signed = table.double().unbind(1)
    turned = operand * cosines[:, None] + operand.roll(head_dim // 2, -1) * signed[:, None]
    query, key, _ = turned.split([heads, key_heads, key_heads], 1)
    value = operand.split([heads, key_heads, key_heads], 1)[2]
    turning = heads + key_heads
    launch(module, "rotate_heads", blocks_of(rows * turning * head_dim // 16), 256, qkv, table, rows,
           turning, heads + 2 * key_heads, head_dim)
    assert off(qkv, torch.cat([query, key, value], 1)) < TOLERANCE[dtype]
    slopes = [noise(rows, n, head_dim, seed=i, dtype=dtype) for i, n in enumerate([heads, key_heads, key_heads], 1)]
    gradient = torch.full_like(qkv, 9.0)
    launch(module, "rotate_heads_backward", blocks_of(gradient.numel() // 16), 256, *slopes, table,
           gradient, rows, heads, key_heads, head_dim)
    loss = sum((a * b.double()).sum() for a, b in zip([query, key, value], slopes))
    (expected,) = torch.autograd.grad(loss, operand)
    assert off(gradient, expected) < TOLERANCE[dtype]


# --- latent attention


def turned_tails(x, table):
    """[T, heads, rotary] by the tokens' angles."""
    cosines, signed = table.double().unbind(1)
    return x * cosines[:, None] + x.roll(x.shape[-1] // 2, -1) * signed[:, None]


def angles_of(rows, width):
    angles = torch.arange(3.0, 3.0 + rows)[:, None] * 10000.0 ** -(torch.arange(width // 2) / width * 2)
    sines = torch.cat([-angles.sin(), angles.sin()], 1)
    return torch.stack([torch.cat([angles.cos()] * 2, 1), sines], 1).float().contiguous()


@both
@pytest.mark.parametrize("heads, plain, rotary, more", [(3, 128, 64, 40), (2, 8, 16, 0)])
def test_tails_of_queries_turn_in_place(kernels, heads, plain, rotary, more, dtype):
    module, rows, width = library(kernels, "train.cu", dtype), 5, plain + rotary
    table, stride = angles_of(rows, rotary), heads * width + more
    x = noise(rows, stride, dtype=dtype)
    before, operand = x.clone(), wide(x)
    heads_of = operand[:, : heads * width].view(rows, heads, width)
    expected = torch.cat([heads_of[..., :plain], turned_tails(heads_of[..., plain:], table)], -1)
    launch(module, "rotate_tails", blocks_of(rows * heads * rotary // 16), 256, x, table, rows, heads,
           plain, rotary, stride)
    assert off(x[:, : heads * width], expected.reshape(rows, -1)) < TOLERANCE[dtype]
    assert torch.equal(x[:, heads * width :], before[:, heads * width :])
    slope, gradient = noise(rows, heads, width, seed=1, dtype=dtype), torch.full_like(x, 9.0)
    items = rows * heads * (plain // 8 + rotary // 16)
    launch(module, "rotate_tails_backward", blocks_of(items), 256, slope, table, gradient, rows, heads,
           plain, rotary, stride)
    (of_operand,) = torch.autograd.grad(expected, operand, slope.double())
    assert off(gradient[:, : heads * width], of_operand[:, : heads * width]) < TOLERANCE[dtype]
    assert (gradient[:, heads * width :] == 9.0).all()


@both
@pytest.mark.parametrize("heads, plain, rotary, value", [(3, 128, 64, 128), (2, 16, 16, 24), (4, 24, 32, 56)])
def test_keys_and_values_of_latents_with_their_gradients(kernels, heads, plain, rotary, value, dtype):
    module, rows, width = library(kernels, "train.cu", dtype), 5, plain + rotary
    table, stride = angles_of(rows, rotary), rotary + 24
    expanded = noise(rows, heads, plain + value, dtype=dtype)
    shared = noise(rows, stride, seed=1, dtype=dtype)
    keys, values = (torch.full((rows, heads, width), torch.nan, dtype=dtype) for _ in range(2))
    items = rows * heads * (plain // 8 + rotary // 16 + width // 8)
    launch(module, "expand_latent", blocks_of(items), 256, expanded, shared, table, keys, values, rows,
           heads, plain, rotary, value, stride)
    operands = [wide(expanded), wide(shared)]
    turned = turned_tails(operands[1][:, None, :rotary], table).expand(-1, heads, -1)
    key = torch.cat([operands[0][..., :plain], turned], -1)
    padded = torch.nn.functional.pad(operands[0][..., plain:], (0, width - value))
    assert off(keys, key) < TOLERANCE[dtype] and torch.equal(values.double(), padded)
    slopes = [noise(rows, heads, width, seed=i, dtype=dtype) for i in (2, 3)]
    gradients = torch.full_like(expanded, torch.nan), torch.full((rows, rotary), torch.nan, dtype=dtype)
    items = rows * (heads * (plain + value) // 8 + rotary // 16)
    launch(module, "expand_latent_backward", blocks_of(items), 256, *slopes, table, *gradients, rows,
           heads, plain, rotary, value)
    of_expanded, of_shared = torch.autograd.grad([key, padded], operands, [of.double() for of in slopes])
    assert torch.equal(gradients[0].double(), of_expanded)
    assert off(gradients[1], of_shared[:, :rotary]) < TOLERANCE[dtype]


# --- log-probabilities


def run_logprobs(module, logits, targets, kept, temperature):
    rows, vocab = logits.shape
    logp, normaliser, entropy = (torch.zeros(rows) for _ in range(3))
    likeliest, factor = torch.zeros(rows, dtype=torch.int64), 1.4426950408889634 / temperature
    launch(module, "logprobs", (rows, 1, 1), 1024, logits, targets, kept, logp, normaliser, entropy,
           likeliest, vocab, factor)
    return logp, normaliser, entropy, likeliest, factor


@both
@pytest.mark.parametrize("vocab", [9000, 611])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("masked", [False, True])
def test_logprobs_with_their_gradients(kernels, vocab, temperature, masked, dtype):
    module, rows = library(kernels, "logprobs.cu", dtype), 4
    logits = noise(rows, vocab, dtype=dtype, scale=3.0)
    # One row is sharp, one has its largest logit twice.
    logits[1] *= 20
    logits[2, [17, 400]] = 30.0
    targets = torch.tensor([5, 399, 17, vocab - 1])
    kept = None
    if masked:
        kept = noise(rows, vocab, seed=1) > 0.5
        kept[torch.arange(rows), targets] = True
    operand = wide(logits)
    scaled = operand / temperature
    if masked:
        scaled = scaled.masked_fill(~kept, -torch.inf)
    all_logp = scaled.log_softmax(-1)
    expected = all_logp[torch.arange(rows), targets]
    logp, normaliser, entropy, likeliest, factor = run_logprobs(module, logits, targets, kept, temperature)
    assert torch.allclose(logp.double(), expected, atol=1e-5, rtol=1e-6)
    p = all_logp.exp()
    assert torch.allclose(entropy.double(), -(p * all_logp.masked_fill(p == 0, 0)).sum(-1), atol=1e-5)
    assert torch.equal(likeliest, scaled.argmax(-1))
    slope = torch.tensor([0.3, -1.0, 0.0, 2.0])
    (gradient,) = torch.autograd.grad(expected, operand, slope.double())
    launch(module, "logits_gradient", (rows, 2, 1), 256, logits, targets, kept, normaliser, slope,
           vocab, factor, 1 / temperature)
    assert (logits[2] == 0).all()
    for row in (0, 1, 3):
        # Most of a row's gradient may be one number, the target's.
        assert off(logits[row], gradient[row]) < (2**-8 if dtype == torch.bfloat16 else 1e-5)


def test_what_is_no_number_shows(kernels):
    module = library(kernels, "logprobs.cu", torch.bfloat16)
    logits, targets = noise(3, 16, dtype=torch.bfloat16), torch.tensor([3, 3, 3])
    logits[0, 9] = float("nan")
    kept = torch.ones(3, 16, dtype=torch.bool)
    kept[1], kept[2, 3] = False, False
    logp = run_logprobs(module, logits, targets, kept, 1.0)[0]
    assert logp[:2].isnan().all() and logp[2] == -torch.inf
