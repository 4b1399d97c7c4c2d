// Multi-head latent attention of a decoding step on the tensor cores, in bfloat16: what
// attend_latent does, for sixteen heads at a time, which read each latent once.
//
// The host defines LATENT and ROPE as for latent.cu. A warp has a quarter of a latent's dimensions,
// and of the rotary key's: it multiplies its part of the queries by its part of the keys, the warps
// of a block add up their scores, and each weighs the very numbers that it has read for its part of
// the sum. So a latent goes from memory to registers once, and through no other memory.

#if BFLOAT16 && LATENT % 128 == 0 && LATENT <= 512 && ROPE == 64

#define WIDTH (LATENT + ROPE)
// Heads that a block takes.
#define HEADS 16
#define WARPS 4
// Places that a block takes at a time. Registers bound how many, and the blocks that a
// multiprocessor holds.
#define PLACES 32
// A warp's dimensions of a latent, and the pieces of 16 bytes that a lane has of them.
#define SLICE (LATENT / WARPS)
#define PIECES (SLICE / 32)
// Stands for minus infinity: differences of two stay numbers.
#define LOWEST -1e30f

struct alignas(8) HalfPiece {
    u32 at[2];
};

// With g = lane / 4 and t = lane % 4, a lane has of place 8j + g the dimensions 32p + 8t to 32p +
// 8t + 7 of its warp's slice of the latent, and 4t to 4t + 3 of its slice of the rotary key: as the
// second operand of multiply_add it is column g, with dimensions in another order, which the
// queries share.
struct Tile {
    Piece latent[PLACES / 8][PIECES];
    HalfPiece rope[PLACES / 8];
};

// Where a lane reads a tile's places, which are of one page.
struct Reader {
    const Number *latent[PLACES / 8];

    __device__ __forceinline__ Reader(const Number *cache, int page, int first, int end, int warp,
                                      int g, int t) {
        const Number *from = cache + ((i64)page * PAGE + first % PAGE) * WIDTH;
#pragma unroll
        for (int j = 0; j < PLACES / 8; j++)
            latent[j] = from + min(8 * j + g, end - 1 - first) * WIDTH + warp * SLICE + 8 * t;
    }
    __device__ __forceinline__ void read_latent(Tile &tile, int p) const {
#pragma unroll
        for (int j = 0; j < PLACES / 8; j++)
            tile.latent[j][p] = read_once(latent[j] + 32 * p);
    }
    __device__ __forceinline__ void read_rope(Tile &tile, int warp, int t) const {
        const int to_rope = LATENT - warp * SLICE + 16 * warp - 4 * t;
#pragma unroll
        for (int j = 0; j < PLACES / 8; j++)
            tile.rope[j] = *(const HalfPiece *)(latent[j] + to_rope);
    }
};

// The queries of a block's heads, as lanes hand them to the tensor cores: of heads g (low) and g +
// 8 (high). They are in shared memory to leave the registers to the places.
struct Queries {
    Piece low[WARPS][PIECES][32], high[WARPS][PIECES][32];
    HalfPiece low_rope[WARPS][32], high_rope[WARPS][32];

    __device__ __forceinline__ void read(const Number *query, int heads, int warp, int lane) {
        const int g = lane / 4, t = lane % 4;
        const Number *from = query + (i64)g * WIDTH;
        const bool has_low = g < heads, has_high = g + 8 < heads;
        const Piece none = {0, 0, 0, 0};
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            const Number *at = from + warp * SLICE + 32 * p + 8 * t;
            low[warp][p][lane] = has_low ? *(const Piece *)at : none;
            high[warp][p][lane] = has_high ? *(const Piece *)(at + 8 * WIDTH) : none;
        }
        const Number *at = from + LATENT + 16 * warp + 4 * t;
        const HalfPiece nothing = {0, 0};
        low_rope[warp][lane] = has_low ? *(const HalfPiece *)at : nothing;
        high_rope[warp][lane] = has_high ? *(const HalfPiece *)(at + 8 * WIDTH) : nothing;
    }
};

// The products of the warp's dimensions: of heads g (0, 1) and g + 8 (2, 3) with places 8j + 2t (0,
// 2) and the next.
__device__ __forceinline__ void multiply(const Queries &q, const Tile &tile, int warp,
                                         int lane, float (&score)[PLACES / 8][4]) {
#pragma unroll
    for (int j = 0; j < PLACES / 8; j++)
        score[j][0] = score[j][1] = score[j][2] = score[j][3] = 0.0f;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        const Piece low = q.low[warp][p][lane], high = q.high[warp][p][lane];
#pragma unroll
        for (int half = 0; half < 4; half += 2)
#pragma unroll
            for (int j = 0; j < PLACES / 8; j++)
                multiply_add(score[j], low.at[half], high.at[half], low.at[half + 1],
                             high.at[half + 1], tile.latent[j][p].at[half],
                             tile.latent[j][p].at[half + 1]);
    }
    const HalfPiece low = q.low_rope[warp][lane], high = q.high_rope[warp][lane];
#pragma unroll
    for (int j = 0; j < PLACES / 8; j++)
        multiply_add(score[j], low.at[0], high.at[0], low.at[1], high.at[1], tile.rope[j].at[0],
                     tile.rope[j].at[1]);
}

// Turns scores into weights of the softmax, relative to the largest score so far: `top` and
// `weight` are of heads g and g + 8, `shrink` what earlier sums are to be multiplied by. `left` are
// the places from the tile's first on.
__device__ __forceinline__ void weigh(float (&score)[PLACES / 8][4], float unit, int left, int t,
                                      float (&top)[2], float (&weight)[2], float (&shrink)[2]) {
    float now[2] = {top[0], top[1]};
#pragma unroll
    for (int j = 0; j < PLACES / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const bool valid = 8 * j + 2 * t + i % 2 < left;
            score[j][i] = valid ? score[j][i] * unit : LOWEST;
            now[i / 2] = fmaxf(now[i / 2], score[j][i]);
        }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffffu, now[h], 1));
        now[h] = fmaxf(now[h], __shfl_xor_sync(0xffffffffu, now[h], 2));
        shrink[h] = exp2_fast(top[h] - now[h]);
        top[h] = now[h];
        weight[h] *= shrink[h];
    }
#pragma unroll
    for (int j = 0; j < PLACES / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // NaN stays NaN, so that weights that have diverged are noticed.
            const bool valid = 8 * j + 2 * t + i % 2 < left;
            score[j][i] = valid ? exp2_fast(score[j][i] - now[i / 2]) : 0.0f;
            weight[i / 2] += score[j][i];
        }
}

// Sums of heads g (0, 1) and g + 8 (2, 3): dimensions 32p + 8t + 2r (0, 2) and the next of the
// warp's slice.
struct Sums {
    float of[PIECES][4][4];

    __device__ __forceinline__ void multiply(const float (&by)[2]) {
#pragma unroll
        for (int p = 0; p < PIECES; p++)
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    of[p][r][i] *= by[i / 2];
    }
    // Adds the tile's latents in their weights.
    __device__ __forceinline__ void add(const float (&weights)[PLACES / 8][4],
                                        const Tile &tile, int p) {
#pragma unroll
        for (int u = 0; u < PLACES / 16; u++) {
            const float(&near)[4] = weights[2 * u], (&far)[4] = weights[2 * u + 1];
            const u32 a[4] = {to_bfloat16s(near[0], near[1]), to_bfloat16s(near[2], near[3]),
                              to_bfloat16s(far[0], far[1]), to_bfloat16s(far[2], far[3])};
#pragma unroll
            for (int r = 0; r < 4; r++)
                multiply_add(of[p][r], a[0], a[1], a[2], a[3],
                             transpose(tile.latent[2 * u][p].at[r]),
                             transpose(tile.latent[2 * u + 1][p].at[r]));
        }
    }
};

// Writes what a block has of heads g and g + 8.
__device__ __forceinline__ void write(Sums &sums, const float (&top)[2], const float (&weight)[2],
                                      Number *out, float *partial, i64 first_head, int heads_left,
                                      int split, int splits, int warp, int g, int t) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (g + 8 * h >= heads_left)
            continue;
        const i64 head = first_head + g + 8 * h;
        float *part = partial + (head * splits + split) * (LATENT + 2);
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            const int dim = warp * SLICE + 32 * p + 8 * t;
            float values[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                values[i] = sums.of[p][i / 2][2 * h + i % 2];
            if (splits == 1) {
#pragma unroll
                for (int i = 0; i < 8; i++)
                    values[i] /= weight[h];
                store(values, out + head * LATENT + dim);
            } else
#pragma unroll
                for (int i = 0; i < 8; i++)
                    part[dim + i] = values[i];
        }
        if (splits > 1 && warp == 0 && t == 0) {
            part[LATENT] = weight[h];
            part[LATENT + 1] = top[h];
        }
    }
}

// Operands as of attend_latent; block (b, y, s) takes heads 16y to 16y + 15.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 2)
    attend_latent_mma(const Number *query, const Number *const *memory, const int *page_table,
                      const int *position, const int *live, Number *out, float *partial, int heads,
                      int row_pages, int splits, float scale) {
    const int row = blockIdx.x, first_head = blockIdx.y * HEADS, split = blockIdx.z;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const bool lives = row < *live;
    // The cache is not of the kernel before, but of one before that; the page table is of none.
    const int count = lives ? position[row] + 1 : 0;
    const int part = ((count + splits - 1) / splits + PLACES - 1) / PLACES * PLACES;
    const int start = min(split * part, count), end = min(count, start + part);
    const int *pages = page_table + (i64)row * row_pages;
    const Number *cache = memory[0];
    Tile tile;
    if (start < end) {
        const Reader reader(cache, pages[start / PAGE], start, end, warp, g, t);
        reader.read_rope(tile, warp, t);
#pragma unroll
        for (int p = 0; p < PIECES; p++)
            reader.read_latent(tile, p);
    }
    take_turn();
    if (!lives)
        return;

    const i64 head = (i64)row * heads + first_head;
    // A lane reads what it has written itself.
    __shared__ Queries q;
    q.read(query + head * WIDTH, heads - first_head, warp, lane);
    Sums sums;
#pragma unroll
    for (int p = 0; p < PIECES; p++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            sums.of[p][r][0] = sums.of[p][r][1] = sums.of[p][r][2] = sums.of[p][r][3] = 0.0f;
    float top[2] = {LOWEST, LOWEST}, weight[2] = {0.0f, 0.0f};
    // Scores are in units of log2, so that a weight is one exp2.
    const float unit = scale * 1.4426950408889634f;
    // Two, so that a warp may write the next tile's while another reads this one's.
    __shared__ float4 scores[2][WARPS][PLACES / 8][32];
    int turn = 0;
    for (int base = start; base < end; base += PLACES, turn ^= 1) {
        const bool goes_on = base + PLACES < end;
        // Before what waits for the tile.
        const int page = goes_on ? pages[(base + PLACES) / PAGE] : 0;
        float score[PLACES / 8][4];
        multiply(q, tile, warp, lane, score);
        const Reader next(cache, page, base + PLACES, end, warp, g, t);
        if (goes_on)
            next.read_rope(tile, warp, t);
#pragma unroll
        for (int j = 0; j < PLACES / 8; j++)
            scores[turn][warp][j][lane] = {score[j][0], score[j][1], score[j][2], score[j][3]};
        __syncthreads();
#pragma unroll
        for (int j = 0; j < PLACES / 8; j++) {
            // All warps add in the same order, so they have the same sums.
            float4 all = scores[turn][0][j][lane];
#pragma unroll
            for (int w = 1; w < WARPS; w++) {
                const float4 one = scores[turn][w][j][lane];
                all = {all.x + one.x, all.y + one.y, all.z + one.z, all.w + one.w};
            }
            score[j][0] = all.x;
            score[j][1] = all.y;
            score[j][2] = all.z;
            score[j][3] = all.w;
        }
        float shrink[2];
        weigh(score, unit, end - base, t, top, weight, shrink);
        sums.multiply(shrink);
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            sums.add(score, tile, p);
            if (goes_on)
                next.read_latent(tile, p);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        weight[h] += __shfl_xor_sync(0xffffffffu, weight[h], 1);
        weight[h] += __shfl_xor_sync(0xffffffffu, weight[h], 2);
    }
    write(sums, top, weight, out, partial, head, heads - first_head, split, splits, warp, g, t);
}

#endif
