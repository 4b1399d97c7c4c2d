// Attention of a decoding step: one token of each row over the row's cached keys and values. A
// layer's cache is `memory`: where its keys and its values are, [pages, key_heads, PAGE, d] each.
// Row b's token p is in page `page_table`[b, p / PAGE], int32 [B, row_pages].
//
// The host defines HEAD_DIM (a multiple of 8, at most 256, that makes HEAD_DIM / 8 a power of two)
// and GROUP, the query heads of one key head that a block takes (1 to 8).

// Lanes that share one key: each has eight of its dimensions.
#define LANES (HEAD_DIM / 8)
// Keys that a warp takes at once, and warps of a block.
#define WARP_KEYS (32 / LANES)
#define WARPS 4
// Keys that a lane reads before it computes with them.
#define AHEAD 2
// Stands for minus infinity: differences of two stay numbers.
#define LOWEST -1e30f

// Adds the biases, norms each head's queries and keys, rotates them, and writes keys and values to
// the cache: qkv [B, heads + 2 · key_heads, d] float32, bias [(heads + 2 · key_heads) · d] or null,
// norms [d] or null, table [positions, 2, d] (cosines, then sines with their signs), position [B]
// → query [B, heads, d], and the row's place of the cache. One warp takes one head of one row; rows
// from `live` on write nothing.
extern "C" __global__ void rotate_and_store(const float *qkv, const Number *bias,
                                            const Number *query_norm, const Number *key_norm,
                                            float epsilon, const float *table,
                                            const int *position, const int *live, Number *query,
                                            Number *const *memory, const int *page_table, int heads,
                                            int key_heads, int row_pages) {
    take_turn();
    const int row = blockIdx.x, lane = threadIdx.x % 32;
    const int head = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    const int all_heads = heads + 2 * key_heads;
    if (row >= *live || head >= all_heads)
        return;
    const int place = position[row];
    const float *from = qkv + ((i64)row * all_heads + head) * HEAD_DIM;
    const bool is_query = head < heads, is_value = head >= heads + key_heads;
    constexpr int EACH = (HEAD_DIM + 31) / 32;
    float x[EACH];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int dim = i * 32 + lane;
        x[i] = dim < HEAD_DIM ? from[dim] : 0.0f;
        if (bias && dim < HEAD_DIM)
            x[i] += wide(bias[head * HEAD_DIM + dim]);
        // The product is rounded to the model's dtype as libtorch's is.
        x[i] = wide(narrow(x[i]));
        squares += x[i] * x[i];
    }
    const Number *norm = is_query ? query_norm : key_norm;
    if (norm && !is_value) {
        const float scale = rsqrtf(warp_sum(squares) / (float)HEAD_DIM + epsilon);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int dim = i * 32 + lane;
            if (dim < HEAD_DIM)
                x[i] = wide(narrow(x[i] * scale * wide(norm[dim])));
        }
    }
    Number *to;
    if (is_query)
        to = query + ((i64)row * heads + head) * HEAD_DIM;
    else {
        const int key_head = is_value ? head - heads - key_heads : head - heads;
        to = memory[is_value] +
             in_pages(page_table + (i64)row * row_pages, place, key_heads, key_head) * HEAD_DIM;
    }
    // Dimension i turns with i + d/2; the warp passes its head through shared memory.
    extern __shared__ float heads_of_block[];
    float *head_of_warp = heads_of_block + threadIdx.x / 32 * HEAD_DIM;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (i * 32 + lane < HEAD_DIM)
            head_of_warp[i * 32 + lane] = x[i];
    __syncwarp();
    const float *cosines = table + (i64)place * 2 * HEAD_DIM, *sines = cosines + HEAD_DIM;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int dim = i * 32 + lane;
        if (dim >= HEAD_DIM)
            continue;
        const float other = head_of_warp[(dim + HEAD_DIM / 2) % HEAD_DIM];
        to[dim] = narrow(is_value ? x[i] : x[i] * cosines[dim] + other * sines[dim]);
    }
}

// softmax(scale · q kᵀ) v over places 0 to position[b]: query [B, heads, d] → out [B, heads, d].
// Block (b, g, s) takes the g-th GROUP of query heads and the s-th of `splits` parts of the places;
// with more than one part it writes to `partial` float32 [B, heads, splits, d + 2] the sum, its
// weight and its largest score.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    attend(const Number *query, const Number *const *memory, const int *page_table,
           const int *position, const int *live, Number *out, float *partial, int heads,
           int key_heads, int row_pages, int splits, float scale) {
    take_turn();
    const int row = blockIdx.x, first_head = blockIdx.y * GROUP, split = blockIdx.z;
    if (row >= *live)
        return;
    const int key_head = first_head / (heads / key_heads);
    const int count = position[row] + 1;
    const int part = (count + splits - 1) / splits;
    const int start = split * part, end = min(count, start + part);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int key_of_warp = lane / LANES, dims = lane % LANES * 8;
    const int *pages = page_table + (i64)row * row_pages;
    const Number *key_at = memory[0] + dims, *value_at = memory[1] + dims;

    // Scores are in units of log2, so that a weight is one exp2.
    float q[GROUP][8], sum[GROUP][8], weight[GROUP], largest[GROUP];
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        load(query + ((i64)row * heads + first_head + g) * HEAD_DIM + dims, q[g]);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            q[g][i] *= scale * 1.4426950408889634f;
            sum[g][i] = 0.0f;
        }
        weight[g] = 0.0f;
        largest[g] = LOWEST;
    }
    constexpr int STRIDE = WARPS * WARP_KEYS;
    for (int base = start + warp * WARP_KEYS; base < end; base += STRIDE * AHEAD) {
        Eight key[AHEAD], value[AHEAD];
        bool valid[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const int place = base + a * STRIDE + key_of_warp;
            valid[a] = place < end;
            const i64 at =
                in_pages(pages, valid[a] ? place : start, key_heads, key_head) * HEAD_DIM;
            key[a] = *(const Eight *)(key_at + at);
            value[a] = *(const Eight *)(value_at + at);
        }
        float score[GROUP][AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float k[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                k[i] = key[a][i];
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                float dot = 0.0f;
#pragma unroll
                for (int i = 0; i < 8; i++)
                    dot += q[g][i] * k[i];
                score[g][a] = dot;
            }
        }
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2)
#pragma unroll
            for (int a = 0; a < AHEAD; a++)
#pragma unroll
                for (int g = 0; g < GROUP; g++)
                    score[g][a] += __shfl_xor_sync(0xffffffffu, score[g][a], distance);
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            float now = largest[g];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                score[g][a] = valid[a] ? score[g][a] : LOWEST;
                now = fmaxf(now, score[g][a]);
            }
            const float shrink = exp2f(largest[g] - now);
            largest[g] = now;
            weight[g] *= shrink;
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                // NaN stays NaN, so that weights that have diverged are noticed.
                score[g][a] = valid[a] ? exp2f(score[g][a] - now) : 0.0f;
                weight[g] += score[g][a];
            }
#pragma unroll
            for (int i = 0; i < 8; i++)
                sum[g][i] *= shrink;
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = valid[a] ? value[a][i] : 0.0f;
#pragma unroll
            for (int g = 0; g < GROUP; g++)
#pragma unroll
                for (int i = 0; i < 8; i++)
                    sum[g][i] += score[g][a] * v[i];
        }
    }

    // The keys of a warp, then the warps of the block, are merged in a fixed order.
#pragma unroll
    for (int distance = LANES; distance < 32; distance *= 2)
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            const float other = __shfl_xor_sync(0xffffffffu, largest[g], distance);
            const float now = fmaxf(largest[g], other);
            const float own = exp2f(largest[g] - now), theirs = exp2f(other - now);
            largest[g] = now;
            weight[g] = weight[g] * own +
                        __shfl_xor_sync(0xffffffffu, weight[g], distance) * theirs;
#pragma unroll
            for (int i = 0; i < 8; i++)
                sum[g][i] = sum[g][i] * own +
                            __shfl_xor_sync(0xffffffffu, sum[g][i], distance) * theirs;
        }
    __shared__ float sums[WARPS][GROUP][HEAD_DIM];
    __shared__ float weights[WARPS][GROUP], tops[WARPS][GROUP];
    if (key_of_warp == 0)
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
#pragma unroll
            for (int i = 0; i < 8; i++)
                sums[warp][g][dims + i] = sum[g][i];
            if (dims == 0) {
                weights[warp][g] = weight[g];
                tops[warp][g] = largest[g];
            }
        }
    __syncthreads();
    for (int at = threadIdx.x; at < GROUP * HEAD_DIM; at += 32 * WARPS) {
        const int g = at / HEAD_DIM, dim = at % HEAD_DIM;
        float top = tops[0][g];
#pragma unroll
        for (int w = 1; w < WARPS; w++)
            top = fmaxf(top, tops[w][g]);
        float total = 0.0f, all = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float share = exp2f(tops[w][g] - top);
            total += sums[w][g][dim] * share;
            all += weights[w][g] * share;
        }
        const i64 head = (i64)row * heads + first_head + g;
        if (splits == 1)
            out[head * HEAD_DIM + dim] = narrow(total / all);
        else {
            float *to = partial + (head * splits + split) * (HEAD_DIM + 2);
            to[dim] = total;
            if (dim == 0) {
                to[HEAD_DIM] = all;
                to[HEAD_DIM + 1] = top;
            }
        }
    }
}
