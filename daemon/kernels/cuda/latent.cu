// Multi-head latent attention of a decoding step (DeepSeek-V2 2.1, in the absorbed form of its
// appendix C): one token of each row over the row's cached latents. A layer's cache is `memory`:
// where its latents are, [pages, PAGE, WIDTH]. Row b's token p is in page `page_table`[b, p /
// PAGE], int32 [B, row_pages].
//
// The host defines LATENT and ROPE, the dimensions of a latent and of the rotary key beside it.

// Dimensions of a place of the cache, and of a head's query in the latent space.
#define WIDTH (LATENT + ROPE)
#define WARPS 4
// Stands for minus infinity: differences of two stay numbers.
#define LOWEST -1e30f

// The sum over a block of at most 32 warps.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float sums[32];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp < blockDim.x / 32; warp++)
        total += sums[warp];
    return total;
}

// x + bias, rounded as libtorch's sum is.
__device__ __forceinline__ float biased(const Number *x, const Number *bias, int i) {
    return bias ? wide(narrow(wide(x[i]) + wide(bias[i]))) : wide(x[i]);
}

// to = norm(x + bias), by the whole block.
__device__ __forceinline__ void norm_row(const Number *x, const Number *bias, const Number *norm,
                                         float epsilon, int width, Number *to) {
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float value = biased(x, bias, i);
        squares += value * value;
    }
    const float scale = rsqrtf(block_sum(squares) / (float)width + epsilon);
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        to[i] = narrow(biased(x, bias, i) * scale * wide(norm[i]));
}

// Dimension i of x + bias after the rotation, whose dimension i turns with i + ROPE / 2; `table` is
// the place's: cosines, then sines with their signs.
__device__ __forceinline__ Number rotated(const Number *x, const Number *bias, const float *table,
                                          int i) {
    const float other = biased(x, bias, (i + ROPE / 2) % ROPE);
    return narrow(biased(x, bias, i) * table[i] + other * table[ROPE + i]);
}

// The rotary part of all heads' queries, by the whole block: x [heads, nope + ROPE] → the end of
// each of `query` [heads, WIDTH].
__device__ __forceinline__ void rotate_heads(const Number *x, const float *table, Number *query,
                                             int heads, int nope) {
    for (int at = threadIdx.x; at < heads * ROPE; at += blockDim.x) {
        const int head = at / ROPE, i = at % ROPE;
        query[head * WIDTH + LATENT + i] =
            rotated(x + (i64)head * (nope + ROPE) + nope, nullptr, table, i);
    }
}

// Norms a token's latent, rotates its key and writes both to the cache: product [B, query_width +
// WIDTH], biases [query_width] and [WIDTH] or null, table float32 [positions, 2, ROPE], position
// [B] → the row's place of the cache. What stands before the latent is either a compressed query,
// which is normed to `compressed` [B, query_width], or, where `query_norm` is null, the heads'
// queries [heads, nope + ROPE], whose rotary part goes to the end of `query` [B, heads, WIDTH]. A
// block takes a row; rows from `live` on do nothing.
extern "C" __global__ void
store_latent(const Number *product, const Number *query_bias, const Number *query_norm,
             float query_epsilon, Number *compressed, int query_width, const Number *latent_bias,
             const Number *latent_norm, float latent_epsilon, const float *table,
             const int *position, const int *live, Number *const *memory, const int *page_table,
             int row_pages, Number *query, int heads, int nope) {
    take_turn();
    const int row = blockIdx.x;
    if (row >= *live)
        return;
    const int place = position[row];
    const float *turn = table + (i64)place * 2 * ROPE;
    const Number *from = product + (i64)row * (query_width + WIDTH);
    if (query_norm)
        norm_row(from, query_bias, query_norm, query_epsilon, query_width,
                 compressed + (i64)row * query_width);
    else
        rotate_heads(from, turn, query + (i64)row * heads * WIDTH, heads, nope);
    const Number *latent = from + query_width, *key = latent + LATENT;
    Number *to = memory[0] + in_pages(page_table + (i64)row * row_pages, place, 1, 0) * WIDTH;
    norm_row(latent, latent_bias, latent_norm, latent_epsilon, LATENT, to);
    for (int i = threadIdx.x; i < ROPE; i += blockDim.x)
        to[LATENT + i] = rotated(key, latent_bias ? latent_bias + LATENT : nullptr, turn, i);
}

// Rotates queries that were compressed: product [B, heads, nope + ROPE] → the end of each head of
// query [B, heads, WIDTH]. A block takes a row; rows from `live` on do nothing.
extern "C" __global__ void rotate_query(const Number *product, const float *table,
                                        const int *position, const int *live, Number *query,
                                        int heads, int nope) {
    take_turn();
    const int row = blockIdx.x;
    if (row >= *live)
        return;
    rotate_heads(product + (i64)row * heads * (nope + ROPE), table + (i64)position[row] * 2 * ROPE,
                 query + (i64)row * heads * WIDTH, heads, nope);
}

// softmax(scale · q kᵀ) c over places 0 to position[b], where c is the latent of k: query [B,
// heads, WIDTH] → out [B, heads, LATENT]. Block (b, h, s) takes the s-th of `splits` parts of the
// places; with more than one part it writes to `partial` float32 [B, heads, splits, LATENT + 2] the
// sum, its weight and its largest score. For all dtypes and sizes.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 4)
    attend_latent(const Number *query, const Number *const *memory, const int *page_table,
                  const int *position, const int *live, Number *out, float *partial, int heads,
                  int row_pages, int splits, float scale) {
    take_turn();
    const int row = blockIdx.x, split = blockIdx.z;
    if (row >= *live)
        return;
    const i64 head = (i64)row * heads + blockIdx.y;
    const int count = position[row] + 1;
    const int part = (count + splits - 1) / splits;
    const int start = split * part, end = min(count, start + part);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int *pages = page_table + (i64)row * row_pages;
    const Number *cache = memory[0];
    constexpr int EACH = (WIDTH + 31) / 32, SUMS = (LATENT + 31) / 32;
    // Scores are in units of log2, so that a weight is one exp2.
    float q[EACH], sum[SUMS], weight = 0.0f, top = LOWEST;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int dim = i * 32 + lane;
        q[i] = dim < WIDTH ? wide(query[head * WIDTH + dim]) * scale * 1.4426950408889634f : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < SUMS; i++)
        sum[i] = 0.0f;
    for (int place = start + warp; place < end; place += WARPS) {
        const Number *from = cache + in_pages(pages, place, 1, 0) * WIDTH;
        float key[EACH], score = 0.0f;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int dim = i * 32 + lane;
            key[i] = dim < WIDTH ? wide(from[dim]) : 0.0f;
            score += q[i] * key[i];
        }
        score = warp_sum(score);
        const float now = fmaxf(top, score), shrink = exp2f(top - now);
        // NaN stays NaN, so that weights that have diverged are noticed.
        const float share = exp2f(score - now);
        top = now;
        weight = weight * shrink + share;
#pragma unroll
        for (int i = 0; i < SUMS; i++)
            sum[i] = sum[i] * shrink + share * key[i];
    }
    // The warps are merged in a fixed order.
    __shared__ float sums[WARPS][LATENT], weights[WARPS], tops[WARPS];
#pragma unroll
    for (int i = 0; i < SUMS; i++)
        if (i * 32 + lane < LATENT)
            sums[warp][i * 32 + lane] = sum[i];
    if (lane == 0) {
        weights[warp] = weight;
        tops[warp] = top;
    }
    __syncthreads();
    float highest = LOWEST, all = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        highest = fmaxf(highest, tops[w]);
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        all += weights[w] * exp2f(tops[w] - highest);
    float *to = partial + (head * splits + split) * (LATENT + 2);
    for (int dim = threadIdx.x; dim < LATENT; dim += 32 * WARPS) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            total += sums[w][dim] * exp2f(tops[w] - highest);
        if (splits == 1)
            out[head * LATENT + dim] = narrow(total / all);
        else
            to[dim] = total;
    }
    if (splits > 1 && threadIdx.x == 0) {
        to[LATENT] = all;
        to[LATENT + 1] = highest;
    }
}
