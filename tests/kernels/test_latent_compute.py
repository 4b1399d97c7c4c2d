"""The kernels of multi-head latent attention compute what they should: their text in the emulator,
beside the same in float64."""

import pytest
import torch
from emulated import Paged, launch, noise, off

PLACES = 150
POSITIONS = [0, 5, 31, 32, 33, 64, 149]
LIVE = len(POSITIONS)
NOPE, EPSILON = 24, 1e-6


def norm(x, weight):
    return x * (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt() * weight.double()


class Case:
    """Rows that live and one that does not, in a cache whose places from a row's position on hold
    NaN before its token is stored."""

    def __init__(self, dtype, latent, rope, heads, query_rank=None, with_bias=False):
        self.dtype, self.latent, self.rope, self.heads = dtype, latent, rope, heads
        self.width, self.rank, rows = latent + rope, query_rank, LIVE + 1
        self.query_width = query_rank or heads * (NOPE + rope)
        self.product = noise(rows, self.query_width + self.width, seed=1, dtype=dtype)
        biases = (noise(n, seed=2, dtype=dtype) for n in (self.query_width, self.width))
        self.query_bias, self.latent_bias = biases if with_bias else (None, None)
        self.query_norm = (1 + noise(self.query_width, seed=3, scale=0.2)).to(dtype) if query_rank else None
        self.latent_norm = (1 + noise(latent, seed=4, scale=0.2)).to(dtype)
        angles = torch.arange(PLACES)[:, None] * 10000.0 ** -(torch.arange(rope // 2) / rope * 2)
        sines = torch.cat([-angles.sin(), angles.sin()], 1)
        self.table = torch.stack([torch.cat([angles.cos()] * 2, 1), sines], 1).float().contiguous()
        self.cache = noise(rows, PLACES, self.width, seed=5, dtype=dtype)
        for row, position in enumerate(POSITIONS):
            self.cache[row, position:] = float("nan")
        self.before = self.cache.clone()
        self.position = torch.tensor([*POSITIONS, 7], dtype=torch.int32)
        self.live = torch.tensor([LIVE], dtype=torch.int32)
        # What stands before the rotary part is the product of another kernel.
        self.query = noise(rows, heads, self.width, seed=6, dtype=dtype)
        self.compressed = torch.full((rows, self.query_width), 9.0, dtype=dtype)
        self.scale = 0.17

    def build(self, kernels, name):
        bfloat16 = int(self.dtype == torch.bfloat16)
        return kernels(name, bfloat16, LATENT=self.latent, ROPE=self.rope)

    def store(self, kernels):
        cache = Paged(self.cache[:, None])
        launch(self.build(kernels, "latent.cu"), "store_latent", (LIVE + 1, 1, 1), 128, self.product,
               self.query_bias, self.query_norm, EPSILON, self.compressed, self.query_width,
               self.latent_bias, self.latent_norm, EPSILON, self.table, self.position, self.live,
               cache.addresses, cache.table, cache.row_pages, self.query, self.heads, NOPE)
        self.cache = cache.caches()[0][:, 0]

    def attend(self, kernels, file, name, splits):
        rows, out = LIVE + 1, torch.full((LIVE + 1, self.heads, self.latent), 9.0, dtype=self.dtype)
        partial = torch.zeros(rows * self.heads * splits * (self.latent + 2))
        blocks = self.heads if file == "latent.cu" else -(-self.heads // 16)
        cache = Paged(self.cache[:, None])
        launch(self.build(kernels, file), name, (rows, blocks, splits), 128, self.query,
               cache.addresses, cache.table, self.position, self.live, out, partial, self.heads,
               cache.row_pages, splits, self.scale)
        if splits > 1:
            launch(kernels("merge.cu", int(self.dtype == torch.bfloat16)), "merge", (rows, self.heads, 1),
                   self.latent, partial, self.live, out, self.heads, splits)
        assert (out[LIVE:] == 9.0).all(), "a row that does not live was written"
        return out[:LIVE]

    def rotated(self, x):
        """x [rows that live, ..., rope], float64, by each row's position."""
        cosines, sines = self.table[self.position[:LIVE].long()].double().unbind(1)
        shape = (LIVE, *[1] * (x.dim() - 2), self.rope)
        return x * cosines.view(shape) + x.roll(self.rope // 2, -1) * sines.view(shape)

    def expected_token(self):
        """The cache's row of each token, float64."""
        token = self.product[:LIVE, self.query_width :]
        if self.latent_bias is not None:
            token = token + self.latent_bias
        latent, key = token.double().split([self.latent, self.rope], 1)
        return torch.cat([norm(latent, self.latent_norm), self.rotated(key)], 1)

    def expected(self):
        """Attention by the queries and the cache as they are, float64."""
        rows = []
        for row, position in enumerate(POSITIONS):
            cache = self.cache[row, : position + 1].double()
            scores = self.query[row].double() @ cache.T * self.scale
            rows.append(scores.softmax(-1) @ cache[:, : self.latent])
        return torch.stack(rows)


@pytest.mark.parametrize("query_rank, with_bias", [(None, False), (40, False), (40, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_is_stored_and_queries_are_rotated(kernels, dtype, query_rank, with_bias):
    case = Case(dtype, 48, 16, 5, query_rank, with_bias)
    queries, tolerance = case.query.clone(), 1e-6 if dtype == torch.float32 else 4e-3
    case.store(kernels)
    stored = torch.stack([case.cache[row, position] for row, position in enumerate(POSITIONS)])
    assert off(stored, case.expected_token()) < tolerance
    for row, position in enumerate(POSITIONS):
        case.cache[row, position] = float("nan")
    assert torch.equal(case.cache.nan_to_num(7), case.before.nan_to_num(7)), "another place was written"
    if query_rank:
        compressed = case.product[:LIVE, :query_rank]
        if with_bias:
            compressed = compressed + case.query_bias
        assert off(case.compressed[:LIVE], norm(compressed.double(), case.query_norm)) < tolerance
        assert (case.compressed[LIVE:] == 9.0).all()
        heads = noise(LIVE + 1, case.heads, NOPE + case.rope, seed=8, dtype=dtype)
        launch(case.build(kernels, "latent.cu"), "rotate_query", (LIVE + 1, 1, 1), 128, heads, case.table,
               case.position, case.live, case.query, case.heads, NOPE)
    else:
        heads = case.product[:, : case.query_width].view(LIVE + 1, case.heads, NOPE + case.rope)
    rotated = case.query[:LIVE, :, case.latent :]
    assert off(rotated, case.rotated(heads[:LIVE, :, NOPE:].double())) < tolerance
    case.query[:LIVE, :, case.latent :] = queries[:LIVE, :, case.latent :]
    assert torch.equal(case.query, queries), "more than the rotary part was written"


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latent_attention_for_all_dtypes(kernels, dtype, splits):
    case = Case(dtype, 48, 16, 5)
    case.store(kernels)
    out = case.attend(kernels, "latent.cu", "attend_latent", splits)
    assert off(out, case.expected()) < (1e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("latent, heads", [(512, 16), (128, 5), (256, 20)])
def test_latent_attention_on_tensor_cores(kernels, latent, heads, splits):
    case = Case(torch.bfloat16, latent, 64, heads)
    case.store(kernels)
    out = case.attend(kernels, "latent_mma.cu", "attend_latent_mma", splits)
    assert off(out, case.expected()) < 6e-3
