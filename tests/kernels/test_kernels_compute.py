"""The CUDA kernels compute what they should, on a machine without a GPU: their text runs on the CPU
(`emulator.h`), beside the same in float64. What an emulator cannot show (speed, races, the tensor
cores' own rounding) is left to a GPU: tests/bench/decode_gpu/check."""

import pytest
import torch
from emulated import DTYPES, Paged, launch, noise, off

# --- attention

PLACES = 300
POSITIONS = [0, 5, 31, 32, 33, 64, 149, 299]


class Case:
    """Rows that live and one that does not, in a cache whose places behind a row's position hold
    NaN."""

    def __init__(self, dtype, head_dim, group, heads_of_key, with_norms, seed=0):
        self.dtype, self.head_dim, self.group = dtype, head_dim, group
        self.heads, self.key_heads, rows = 2 * heads_of_key, 2, len(POSITIONS) + 1
        all_heads = self.heads + 2 * self.key_heads
        self.qkv = noise(rows, all_heads, head_dim, seed=seed)
        self.bias = noise(all_heads, head_dim, seed=seed + 1, dtype=dtype)
        self.norms = [
            (1 + noise(head_dim, seed=seed + i, scale=0.1)).to(dtype) if with_norms else None
            for i in (2, 3)
        ]
        angles = torch.arange(PLACES)[:, None] * 10000.0 ** -(torch.arange(head_dim // 2) / head_dim * 2)
        sines = torch.cat([-angles.sin(), angles.sin()], 1)
        self.table = torch.stack([torch.cat([angles.cos()] * 2, 1), sines], 1).float().contiguous()
        shape = (rows, self.key_heads, PLACES, head_dim)
        self.keys, self.values = (noise(*shape, seed=seed + i, dtype=dtype) for i in (4, 5))
        for row, position in enumerate(POSITIONS):
            self.keys[row, :, position:] = self.values[row, :, position:] = float("nan")
        self.position = torch.tensor([*POSITIONS, 7], dtype=torch.int32)
        self.live = torch.tensor([len(POSITIONS)], dtype=torch.int32)
        self.out = torch.full((rows, self.heads, head_dim), 9.0, dtype=dtype)

    def general(self, kernels, splits):
        """By the kernels for all dtypes and head sizes; returns (out, keys, values)."""
        library = self.build(kernels, "attention.cu")
        cache, out = Paged(self.keys, self.values), self.out.clone()
        rows, query = len(self.position), torch.zeros_like(self.out)
        all_heads = self.heads + 2 * self.key_heads
        launch(library, "rotate_and_store", (rows, -(-all_heads // 4), 1), 128, self.qkv, self.bias,
               *self.norms, 1e-6, self.table, self.position, self.live, query, cache.addresses,
               cache.table, self.heads, self.key_heads, cache.row_pages)
        partial = torch.zeros(rows * self.heads * splits * (self.head_dim + 2))
        launch(library, "attend", (rows, self.heads // self.group, splits), 128, query, cache.addresses,
               cache.table, self.position, self.live, out, partial, self.heads, self.key_heads,
               cache.row_pages, splits, self.head_dim**-0.5)
        self.merge(kernels, partial, out, splits)
        return out, *cache.caches()

    def build(self, kernels, name):
        bfloat16 = int(self.dtype == torch.bfloat16)
        return kernels(name, bfloat16, HEAD_DIM=self.head_dim, GROUP=self.group)

    def merge(self, kernels, partial, out, splits):
        if splits > 1:
            launch(kernels("merge.cu", int(self.dtype == torch.bfloat16)), "merge", (len(self.position), self.heads, 1), self.head_dim, partial,
                   self.live, out, self.heads, splits)

    def on_tensor_cores(self, kernels, warps, splits):
        library = self.build(kernels, "attention_mma.cu")
        cache, out = Paged(self.keys, self.values), self.out.clone()
        rows = len(self.position)
        partial = torch.zeros(rows * self.heads * splits * (self.head_dim + 2))
        launch(library, f"rotate_and_attend_{warps}", (rows, self.heads // self.group, splits),
               32 * warps, self.qkv, self.bias, *self.norms, 1e-6, self.table, self.position,
               self.live, cache.addresses, cache.table, out, partial, self.heads, self.key_heads,
               cache.row_pages, splits, self.head_dim**-0.5)
        self.merge(kernels, partial, out, splits)
        return out, *cache.caches()

    def expected(self, keys, values):
        """Of the rows that live, in float64, from the cache with the tokens' keys and values."""
        token = (self.qkv + self.bias.float()).to(self.dtype).double()[: len(POSITIONS)]
        query = token[:, : self.heads]
        if self.norms[0] is not None:
            query = query * (query.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.norms[0].double()
        half = query.roll(self.head_dim // 2, -1)
        cosines, sines = self.table[self.position[: len(POSITIONS)].long()].double().unbind(1)
        query = query * cosines[:, None] + half * sines[:, None]
        rows = []
        for row, position in enumerate(POSITIONS):
            grouped = query[row].view(self.key_heads, -1, self.head_dim)
            k, v = (cache[row, :, : position + 1].double() for cache in (keys, values))
            scores = grouped @ k.transpose(1, 2) * self.head_dim**-0.5
            rows.append((scores.softmax(-1) @ v).view(self.heads, self.head_dim))
        return torch.stack(rows)

    def check(self, found, tolerance):
        out, keys, values = found
        live = len(POSITIONS)
        assert (out[live:] == 9.0).all(), "a row that does not live was written"
        assert torch.equal(keys[live:], self.keys[live:]) and torch.equal(values[live:], self.values[live:])
        assert off(out[:live], self.expected(keys, values)) < tolerance


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_for_all_dtypes(kernels, dtype, splits):
    case = Case(dtype, 16, 2, 4, with_norms=True)
    case.check(case.general(kernels, splits), 1e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("warps", [4, 8])
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("head_dim, group, heads_of_key", [(64, 7, 7), (128, 6, 6), (64, 1, 1), (64, 8, 16)])
def test_attention_on_tensor_cores(kernels, head_dim, group, heads_of_key, splits, warps):
    case = Case(torch.bfloat16, head_dim, group, heads_of_key, with_norms=group == 6)
    found = case.on_tensor_cores(kernels, warps, splits)
    case.check(found, 6e-3)
    for ours, theirs in zip(found[1:], case.general(kernels, 1)[1:], strict=True):
        assert torch.equal(ours.view(torch.int16), theirs.view(torch.int16)), "another cache"


@pytest.mark.parametrize("splits", [1, 24])
def test_attention_of_a_long_row(kernels, monkeypatch, splits):
    monkeypatch.setitem(globals(), "PLACES", 40_000)
    monkeypatch.setitem(globals(), "POSITIONS", [33_001])
    case = Case(torch.bfloat16, 64, 7, 7, with_norms=False)
    case.check(case.on_tensor_cores(kernels, 8, splits), 1e-2)


# --- draw


def draw(kernels, logits, uniforms, temperature, limits=None, keep=False):
    rows, vocab = logits.shape
    step, live = torch.tensor([1], dtype=torch.int32), torch.tensor([rows], dtype=torch.int32)
    last, position = torch.zeros(rows, dtype=torch.int32), torch.full((rows,), 5, dtype=torch.int32)
    ids, logprobs = torch.zeros(2, rows, dtype=torch.int32), torch.zeros(2, rows)
    uniforms = torch.stack([torch.zeros(rows), uniforms]).contiguous()
    kept_bytes = (vocab + 63) // 64 * 8
    kept = torch.full((2, rows, kept_bytes), 255, dtype=torch.uint8) if keep else None
    library = kernels("draw.cu", int(logits.dtype == torch.bfloat16))
    launch(library, "draw", (rows, 1, 1), 1024, logits, uniforms, step, live, last, position, ids,
           logprobs, limits, kept, kept_bytes, vocab, rows, temperature)
    assert torch.equal(last, ids[1]) and (position == 6).all() and (ids[0] == 0).all()
    return ids[1].long(), logprobs[1], None if kept is None else kept[1]


@pytest.mark.parametrize("vocab", [1111, 20_000])
@pytest.mark.parametrize("bfloat16", [0, 1])
def test_a_draw_is_the_inverse_of_the_cumulative_mass(kernels, bfloat16, vocab):
    rows, temperature = 6, 0.7
    logits = noise(rows, vocab, seed=vocab, scale=4.0, dtype=DTYPES[bfloat16])
    logits[3, ::3] = float("-inf")
    uniforms = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.999, 0.99999994])
    ids, logprobs, _ = draw(kernels, logits, uniforms, temperature)
    expected = (logits.double() / temperature).log_softmax(-1)
    cumulative = expected.exp().cumsum(-1)
    for row in range(rows):
        reached, before = (cumulative[row, i].item() if i >= 0 else 0.0 for i in (ids[row], ids[row] - 1))
        assert before - 1e-6 <= uniforms[row].item() <= reached + 1e-6, (row, before, reached)
        assert abs(logprobs[row].item() - expected[row, ids[row]].item()) < 1e-5
    greedy, logprobs, _ = draw(kernels, logits, uniforms, 0.0)
    assert torch.equal(greedy, logits.float().argmax(-1))
    first = logits.double().log_softmax(-1).gather(1, greedy[:, None])[:, 0]
    assert (logprobs - first).abs().max() < 1e-5


def test_a_draw_is_among_what_the_limits_leave(kernels):
    rows, vocab, temperature = 6, 5003, 1.3
    logits = noise(rows, vocab, seed=3, scale=3.0)
    distance = (logits.max(-1, keepdim=True).values - logits) / temperature
    # From one id to all.
    limits = torch.tensor([0.0, 0.5, 2.0, 4.0, 8.0, 1e9])
    left = distance <= limits[:, None]
    uniforms = torch.tensor([0.3, 0.0, 0.4, 0.6, 0.99, 0.99999994])
    ids, logprobs, kept = draw(kernels, logits, uniforms, temperature, limits, keep=True)
    bits = (kept[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    bits = bits.view(rows, -1)
    assert torch.equal(bits[:, :vocab].bool(), left) and not bits[:, vocab:].any()
    expected = (logits.double() / temperature).masked_fill(~left, float("-inf")).log_softmax(-1)
    cumulative = expected.exp().cumsum(-1)
    for row in range(rows):
        assert left[row, ids[row]]
        before = cumulative[row, ids[row] - 1].item() if ids[row] > 0 else 0.0
        assert before - 1e-6 <= uniforms[row].item() <= cumulative[row, ids[row]].item() + 1e-6
        assert abs(logprobs[row].item() - expected[row, ids[row]].item()) < 1e-5


def test_logits_that_are_not_finite_are_told_by_the_log_probability(kernels):
    logits = noise(4, 3000, seed=9)
    logits[0, 17], logits[1, 2999], logits[2, :] = float("nan"), float("inf"), float("-inf")
    ids, logprobs, _ = draw(kernels, logits, torch.full((4,), 0.5), 1.0)
    assert logprobs[:3].isnan().all() and logprobs[3].isfinite()
    assert ((ids >= 0) & (ids < 3000)).all()


# --- products with few rows


@pytest.mark.parametrize("inner", [64, 904, 3000])
@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("bfloat16", [0, 1])
def test_products_with_few_rows(kernels, bfloat16, rows, inner):
    dtype, tolerance = DTYPES[bfloat16], 8e-3 if bfloat16 else 1e-6
    library, outer = kernels("few.cu", bfloat16), 37
    x, before = noise(rows, inner, seed=1, dtype=dtype), noise(rows, outer, seed=2, dtype=dtype)
    norm = (1 + noise(inner, seed=3, scale=0.2)).to(dtype)
    weight = noise(2 * outer, inner, seed=4, dtype=dtype, scale=inner**-0.5)
    wide = x.double()
    normed = wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.double()
    gate, up = (normed @ weight.double().T).split(outer, 1)
    expected = {
        "normed": gate,
        "plain": gate,
        "gated": torch.nn.functional.silu(gate) * up,
        "added": before.double() + wide @ weight[:outer].double().T,
    }
    for what, right in expected.items():
        y = before.clone() if what != "normed" else torch.zeros(rows, outer)
        # Two blocks for 37 columns: a warp takes several.
        launch(library, f"{what}_{rows}", (2, 1, 1), 256, x, norm, 1e-6, weight, y, inner, outer)
        assert off(y, right) < tolerance, what
