// Attention of a decoding step on the tensor cores, in bfloat16: rotates one token of each row,
// writes its key and value to the cache, and attends over the row's places.
//
// The host defines HEAD_DIM (64 or 128) and GROUP, the query heads of one key head that a block
// takes (1 to 8).

#if BFLOAT16 && (HEAD_DIM == 64 || HEAD_DIM == 128)

// Keys that a warp takes at once: what it has read of keys and values is 64 registers of each lane.
#define KEYS (2048 / HEAD_DIM)
// Pieces of 16 bytes that a lane has of a key, and of a value.
#define KEY_PIECES (HEAD_DIM / 32)
#define VALUE_PIECES (HEAD_DIM / 64)
// Dimensions that a lane has of a head while it is rotated: i · 32 + lane.
#define EACH (HEAD_DIM / 32)
// A row of float32 sums in shared memory, padded against bank conflicts.
#define SUMS_WIDTH (HEAD_DIM + 4)
// Stands for minus infinity: differences of two stay numbers.
#define LOWEST -1e30f

// With g = lane / 4 and t = lane % 4, a lane has of key 8j + g the pieces t, t + 4, …: as the
// second operand of multiply_add it is column g, with dimensions in another order, which the
// queries share.
struct Keys {
    Piece of[KEYS / 8][KEY_PIECES];

    // From the first of `count` keys on; those behind are the last again.
    __device__ __forceinline__ void read(const Number *from, int count, int g, int t) {
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            const Number *key = from + min(8 * j + g, count - 1) * HEAD_DIM;
#pragma unroll
            for (int p = 0; p < KEY_PIECES; p++)
                of[j][p] = *(const Piece *)(key + 8 * (t + 4 * p));
        }
    }
};

// A lane has of the values 16u + 2t, 2t + 1, 2t + 8 and 2t + 9 the pieces g, g + 8: halves of two
// make the first operand of multiply_add, whose row g is dimension 8g + 2r and row g + 8 the next.
struct Values {
    Piece of[KEYS / 16][4][VALUE_PIECES];

    __device__ __forceinline__ void read(const Number *from, int count, int g, int t) {
#pragma unroll
        for (int u = 0; u < KEYS / 16; u++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = 16 * u + 2 * t + i % 2 + i / 2 * 8;
                const Number *value = from + min(at, count - 1) * HEAD_DIM;
#pragma unroll
                for (int p = 0; p < VALUE_PIECES; p++)
                    of[u][i][p] = *(const Piece *)(value + 8 * (g + 8 * p));
            }
    }
};

// What a block has of its row's token: queries [GROUP, d], and in float32 key and value [d].
struct Token {
    alignas(16) Number queries[GROUP][HEAD_DIM];
    float key[HEAD_DIM], value[HEAD_DIM];
};

// Adds the biases, norms and rotates the row's queries of this block, key and value: as
// rotate_and_store does, with what it writes to the cache if `writes`.
template <int WARPS>
__device__ __forceinline__ void
rotate(Token &token, const float *qkv, const Number *bias, const Number *query_norm,
       const Number *key_norm, float epsilon, const float (&cosines)[EACH],
       const float (&sines)[EACH], Number *key_to, Number *value_to, bool writes, int first_head,
       int heads, int key_head, int key_heads) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int h = warp; h < GROUP + 2; h += WARPS) {
        const bool is_query = h < GROUP, is_value = h == GROUP + 1;
        const int head = is_query   ? first_head + h
                         : is_value ? heads + key_heads + key_head
                                    : heads + key_head;
        float x[EACH];
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int dim = i * 32 + lane;
            x[i] = qkv[head * HEAD_DIM + dim];
            if (bias)
                x[i] += wide(bias[head * HEAD_DIM + dim]);
            // The product is rounded to the model's dtype as libtorch's is.
            x[i] = wide(narrow(x[i]));
            squares += x[i] * x[i];
        }
        const Number *norm = is_query ? query_norm : key_norm;
        if (norm && !is_value) {
            const float scale = rsqrtf(warp_sum(squares) / (float)HEAD_DIM + epsilon);
#pragma unroll
            for (int i = 0; i < EACH; i++)
                x[i] = wide(narrow(x[i] * scale * wide(norm[i * 32 + lane])));
        }
        // Dimension i turns with i + d/2, which the same lane has.
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int dim = i * 32 + lane;
            const float other = x[(i + EACH / 2) % EACH];
            const Number y = narrow(is_value ? x[i] : x[i] * cosines[i] + other * sines[i]);
            if (is_query)
                token.queries[h][dim] = y;
            else
                (is_value ? token.value : token.key)[dim] = wide(y);
            if (writes && !is_query)
                (is_value ? value_to : key_to)[dim] = y;
        }
    }
}

// softmax(scale · q kᵀ) v over places 0 to position[b], the last of which is this token's: qkv [B,
// heads + 2 · key_heads, d] float32, bias, norms, table, memory and page_table as of
// rotate_and_store → out [B, heads, d]. Block (b, g, s) takes the g-th GROUP of query heads and the
// s-th of `splits` parts of the places; with more than one part it writes to `partial`, as `attend`
// does. Rows from `live` on do nothing.
template <int WARPS>
__device__ __forceinline__ void
attend_row(const float *qkv, const Number *bias, const Number *query_norm, const Number *key_norm,
           float epsilon, const float *table, const int *position, const int *live,
           Number *const *memory, const int *page_table, Number *out, float *partial, int heads,
           int key_heads, int row_pages, int splits, float scale) {
    const int row = blockIdx.x, first_head = blockIdx.y * GROUP, split = blockIdx.z;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int key_head = first_head / (heads / key_heads);
    const bool lives = row < *live;
    // Positions, the page table and the cache's older places are not of the kernel before.
    const int place = lives ? position[row] : -1;
    const int part = ((place + splits) / splits + KEYS - 1) / KEYS * KEYS;
    const int start = split * part, end = min(place, start + part);
    const bool has_token = lives && start <= place && place < start + part;
    const int *pages = page_table + (i64)row * row_pages;
    const int first = start + warp * KEYS;
    Keys k;
    Values v;
    float cosines[EACH], sines[EACH];
    if (lives) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            cosines[i] = table[(i64)place * 2 * HEAD_DIM + i * 32 + lane];
            sines[i] = table[((i64)place * 2 + 1) * HEAD_DIM + i * 32 + lane];
        }
    }
    if (first < end) {
        // A warp's keys are of one page.
        const i64 from = in_pages(pages, first, key_heads, key_head) * HEAD_DIM;
        k.read(memory[0] + from, end - first, g, t);
        v.read(memory[1] + from, end - first, g, t);
    }
    take_turn();
    if (!lives)
        return;

    __shared__ Token token;
    const bool writes = has_token && first_head % (heads / key_heads) == 0;
    const i64 own = in_pages(pages, place, key_heads, key_head) * HEAD_DIM;
    rotate<WARPS>(token, qkv + (i64)row * (heads + 2 * key_heads) * HEAD_DIM, bias, query_norm,
                  key_norm, epsilon, cosines, sines, memory[0] + own, memory[1] + own, writes,
                  first_head, heads, key_head, key_heads);
    __syncthreads();
    Piece q[KEY_PIECES];
#pragma unroll
    for (int p = 0; p < KEY_PIECES; p++)
        if (g < GROUP)
            q[p] = *(const Piece *)(token.queries[g] + 8 * (t + 4 * p));
        else
            q[p] = {0, 0, 0, 0};

    // Of queries 2t (0, 2) and 2t + 1 (1, 3), dimensions 64p + 8g + 2r (0, 1) and the next (2, 3).
    float sum[VALUE_PIECES][4][4];
#pragma unroll
    for (int p = 0; p < VALUE_PIECES; p++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            sum[p][r][0] = sum[p][r][1] = sum[p][r][2] = sum[p][r][3] = 0.0f;
    // Of query g; rows g + 8 of the scores' tiles are of none.
    float weight = 0.0f, top = LOWEST;
    // Scores are in units of log2, so that a weight is one exp2.
    const float unit = scale * 1.4426950408889634f;
    for (int base = first; base < end; base += WARPS * KEYS) {
        const int next = base + WARPS * KEYS;
        // Before what waits for the keys.
        const i64 from = next < end ? in_pages(pages, next, key_heads, key_head) * HEAD_DIM : 0;
        float score[KEYS / 8][4];
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            score[j][0] = score[j][1] = score[j][2] = score[j][3] = 0.0f;
#pragma unroll
            for (int p = 0; p < KEY_PIECES; p++) {
                const Piece &piece = k.of[j][p];
                multiply_add(score[j], q[p].at[0], 0, q[p].at[1], 0, piece.at[0], piece.at[1]);
                multiply_add(score[j], q[p].at[2], 0, q[p].at[3], 0, piece.at[2], piece.at[3]);
            }
        }
        if (next < end)
            k.read(memory[0] + from, end - next, g, t);
        float now = top;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const bool valid = base + 8 * j + 2 * t + i < end;
                score[j][i] = valid ? score[j][i] * unit : LOWEST;
                now = fmaxf(now, score[j][i]);
            }
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
        now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
        const float shrink = exp2_fast(top - now);
        top = now;
        weight *= shrink;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                // NaN stays NaN, so that weights that have diverged are noticed.
                const bool valid = base + 8 * j + 2 * t + i < end;
                score[j][i] = valid ? exp2_fast(score[j][i] - now) : 0.0f;
                weight += score[j][i];
            }
        const float shrinks[2] = {__shfl_sync(0xffffffffu, shrink, 8 * t),
                                  __shfl_sync(0xffffffffu, shrink, 8 * t + 4)};
#pragma unroll
        for (int p = 0; p < VALUE_PIECES; p++)
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    sum[p][r][i] *= shrinks[i % 2];
#pragma unroll
        for (int u = 0; u < KEYS / 16; u++) {
            const u32 near = to_bfloat16s(score[2 * u][0], score[2 * u][1]);
            const u32 far = to_bfloat16s(score[2 * u + 1][0], score[2 * u + 1][1]);
#pragma unroll
            for (int p = 0; p < VALUE_PIECES; p++)
#pragma unroll
                for (int r = 0; r < 4; r++) {
                    const u32 low[2] = {v.of[u][0][p].at[r], v.of[u][1][p].at[r]};
                    const u32 high[2] = {v.of[u][2][p].at[r], v.of[u][3][p].at[r]};
                    multiply_add(sum[p][r], __byte_perm(low[0], low[1], 0x5410),
                                 __byte_perm(low[0], low[1], 0x7632),
                                 __byte_perm(high[0], high[1], 0x5410),
                                 __byte_perm(high[0], high[1], 0x7632), near, far);
                }
        }
        if (next < end)
            v.read(memory[1] + from, end - next, g, t);
    }
    weight += __shfl_xor_sync(0xffffffffu, weight, 1);
    weight += __shfl_xor_sync(0xffffffffu, weight, 2);

    // The warps, and the row's token as one more, are merged in a fixed order.
    __shared__ __align__(16) float sums[WARPS][GROUP][SUMS_WIDTH];
    __shared__ float weights[WARPS + 1][GROUP], tops[WARPS + 1][GROUP];
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (2 * t + i < GROUP)
#pragma unroll
            for (int p = 0; p < VALUE_PIECES; p++) {
                float4 *to = (float4 *)(sums[warp][2 * t + i] + 8 * (g + 8 * p));
                to[0] = {sum[p][0][i], sum[p][0][i + 2], sum[p][1][i], sum[p][1][i + 2]};
                to[1] = {sum[p][2][i], sum[p][2][i + 2], sum[p][3][i], sum[p][3][i + 2]};
            }
    if (g < GROUP && t == 0) {
        weights[warp][g] = weight;
        tops[warp][g] = top;
    }
    for (int h = warp; h < GROUP; h += WARPS) {
        float dot = 0.0f;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            dot += wide(token.queries[h][i * 32 + lane]) * token.key[i * 32 + lane];
        dot = warp_sum(dot);
        if (lane == 0) {
            weights[WARPS][h] = has_token ? 1.0f : 0.0f;
            tops[WARPS][h] = has_token ? dot * unit : LOWEST;
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < GROUP * HEAD_DIM; at += 32 * WARPS) {
        const int h = at / HEAD_DIM, dim = at % HEAD_DIM;
        float highest = tops[0][h];
#pragma unroll
        for (int w = 1; w <= WARPS; w++)
            highest = fmaxf(highest, tops[w][h]);
        float share = exp2_fast(tops[WARPS][h] - highest) * weights[WARPS][h];
        float total = token.value[dim] * share, all = share;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            share = exp2_fast(tops[w][h] - highest);
            total += sums[w][h][dim] * share;
            all += weights[w][h] * share;
        }
        const i64 head = (i64)row * heads + first_head + h;
        if (splits == 1)
            out[head * HEAD_DIM + dim] = narrow(total / all);
        else {
            float *to = partial + (head * splits + split) * (HEAD_DIM + 2);
            to[dim] = total;
            if (dim == 0) {
                to[HEAD_DIM] = all;
                to[HEAD_DIM + 1] = highest;
            }
        }
    }
}

#define KERNEL(WARPS, BLOCKS)                                                                      \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) rotate_and_attend_##WARPS(    \
        const float *qkv, const Number *bias, const Number *query_norm, const Number *key_norm,    \
        float epsilon, const float *table, const int *position, const int *live,                   \
        Number *const *memory, const int *page_table, Number *out, float *partial, int heads,      \
        int key_heads, int row_pages, int splits, float scale) {                                   \
        attend_row<WARPS>(qkv, bias, query_norm, key_norm, epsilon, table, position, live, memory, \
                          page_table, out, partial, heads, key_heads, row_pages, splits, scale);   \
    }

// Registers bound the blocks that a multiprocessor holds.
KERNEL(4, HEAD_DIM == 64 ? 4 : 3)
KERNEL(8, HEAD_DIM == 64 ? 2 : 1)

#endif
