// Products with the experts' matrices on the tensor cores, in bfloat16, for the few tokens of a
// decoding step: the rows of a matrix are the first operand, and go from memory to registers once
// for many of an expert's tokens.

#if BFLOAT16

// Numbers of a row that a warp multiplies at a time.
#define COLUMNS 64
#define WARPS 4

// Sixteen rows of a matrix, twice: with g = lane / 4 and t = lane % 4, a lane has of rows g (low)
// and g + 8 (high) of each the columns 32p + 8t to 32p + 8t + 7. As the first operand of
// multiply_add the columns are in another order, which the tokens share.
struct Matrix {
    Piece low[2][COLUMNS / 32], high[2][COLUMNS / 32];

    // Of the m-th sixteen for m from FIRST to END - 1.
    template <int FIRST, int END>
    __device__ __forceinline__ void read(const Number *from, int to_second, int to_high, int p) {
#pragma unroll
        for (int m = FIRST; m < END; m++) {
            low[m][p] = read_once(from + m * to_second + 32 * p);
            high[m][p] = read_once(from + m * to_second + to_high + 32 * p);
        }
    }
};

// The product of rows of a matrix with 8 · TILES tokens: lane (g, t) of `sum` has of row g (0, 1)
// and g + 8 (2, 3) of each sixteen the tokens 8j + 2t (0, 2) and the next. `at` is where the token
// 8j + g begins. `matrix` has the first columns.
template <int TILES, int FIRST, int END>
__device__ __forceinline__ void multiply(Matrix &matrix, const Number *from, int to_second,
                                         int to_high, const Number *x, const u32 (&at)[TILES],
                                         int inner, float (&sum)[END - FIRST][TILES][4]) {
#pragma unroll
    for (int m = 0; m < END - FIRST; m++)
#pragma unroll
        for (int j = 0; j < TILES; j++)
            sum[m][j][0] = sum[m][j][1] = sum[m][j][2] = sum[m][j][3] = 0.0f;
#pragma unroll 1
    for (int column = 0; column < inner; column += COLUMNS) {
        const int next = column + COLUMNS;
#pragma unroll
        for (int p = 0; p < COLUMNS / 32; p++) {
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                const Piece token = *(const Piece *)(x + at[j] + column + 32 * p);
#pragma unroll
                for (int half = 0; half < 4; half += 2)
#pragma unroll
                    for (int m = FIRST; m < END; m++)
                        multiply_add(sum[m - FIRST][j], matrix.low[m][p].at[half],
                                     matrix.high[m][p].at[half], matrix.low[m][p].at[half + 1],
                                     matrix.high[m][p].at[half + 1], token.at[half],
                                     token.at[half + 1]);
            }
            if (next < inner)
                matrix.read<FIRST, END>(from + next, to_second, to_high, p);
        }
    }
}

// Operands of both kernels, after the first tokens of an expert.
struct Work {
    const Number *x, *from;
    const int *order;
    Number *y;
    int to_second, to_high;
    int per_token, inner, outer, channel;
};

__device__ __forceinline__ u32 silu_mul(float gate, float up) {
    gate = wide(narrow(gate));
    // Rounded between the two operations, as libtorch's silu and product are.
    return to_bfloat16(wide(narrow(gate / (1.0f + expf(-gate)))) * wide(narrow(up)));
}

// Multiplies an expert's `count` tokens from place `start` on, at most 8 · TILES, and writes the
// results.
template <int TILES, bool GATED, int FIRST = 0, int END = 2>
__device__ __forceinline__ void tokens(const Work &work, Matrix &matrix, int start, int count) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    u32 at[TILES];
#pragma unroll
    for (int j = 0; j < TILES; j++) {
        const int place = start + min(8 * j + g, count - 1);
        const int row = GATED ? work.order[place] / work.per_token : place;
        at[j] = (u32)row * work.inner + 8 * t;
    }
    float sum[END - FIRST][TILES][4];
    multiply<TILES, FIRST, END>(matrix, work.from, work.to_second, work.to_high, work.x, at, work.inner, sum);
#pragma unroll
    for (int j = 0; j < TILES; j++) {
        const int token = 8 * j + g;
        const int place = start + min(token, count - 1);
        Number *y = work.y + (i64)(GATED ? place : work.order[place]) * work.outer + 2 * t;
#pragma unroll
        for (int m = FIRST; m < END; m++) {
            float(&tile)[4] = sum[m - FIRST][j];
            // From two tokens of a channel to two channels of a token.
            if (GATED) {
                const u32 pair = transpose(silu_mul(tile[0], tile[2]) |
                                           silu_mul(tile[1], tile[3]) << 16);
                if (token < count)
                    *(u32 *)(y + work.channel + 8 * m) = pair;
            } else {
                const u32 low = transpose(to_bfloat16s(tile[0], tile[1]));
                const u32 high = transpose(to_bfloat16s(tile[2], tile[3]));
                if (token < count) {
                    *(u32 *)(y + work.channel + 16 * m) = low;
                    *(u32 *)(y + work.channel + 16 * m + 8) = high;
                }
            }
        }
    }
}

// x [B, inner] or, ungated, [pairs, inner] in the order of the experts; order and starts as
// sort_by_expert writes them; weight [E, outer, inner], GATED: [E, 2 · outer, inner], gate above up
// → y [pairs, outer] in the order of the experts or, ungated, of the tokens. A warp takes 16
// (GATED) or 32 columns of y; block (c, e) takes expert e.
template <bool GATED, int TOKENS_MAX>
__device__ __forceinline__ void expert(const Number *x, const Number *weight, const int *order,
                                       const int *starts, Number *y, int per_token, int inner,
                                       int outer) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int warp = blockIdx.x * WARPS + threadIdx.x / 32;
    const int channel = warp * (GATED ? 16 : 32);
    const i64 height = GATED ? 2 * outer : outer;
    const bool exists = channel < outer;
    Work work = {x, weight + (blockIdx.y * height + channel + g) * inner + 8 * t, order, y,
                 // Rows of gate stand beside those of up in one operand, so that one lane gets
                 // both.
                 (GATED ? 8 : 16) * inner, (GATED ? outer : 8) * inner, per_token, inner,
                 outer, channel};
    Matrix matrix;
    // Weights do not depend on the kernel before, so they are on their way while it ends.
    if (exists)
#pragma unroll
        for (int p = 0; p < COLUMNS / 32; p++)
            matrix.read<0, 2>(work.from, work.to_second, work.to_high, p);
    take_turn();
    if (!exists)
        return;
    const int end = starts[blockIdx.y + 1];
    bool again = false;
    for (int start = starts[blockIdx.y]; start < end;) {
        if (again)
#pragma unroll
            for (int p = 0; p < COLUMNS / 32; p++)
                matrix.read<0, 2>(work.from, work.to_second, work.to_high, p);
        again = true;
        const int left = end - start;
        if (left <= 8)
            tokens<1, GATED>(work, matrix, start, left);
        else if (left <= 16)
            tokens<2, GATED>(work, matrix, start, left);
        else if (left <= 24)
            tokens<3, GATED>(work, matrix, start, left);
        else if (left <= 32 || TOKENS_MAX == 32)
            tokens<4, GATED>(work, matrix, start, min(left, TOKENS_MAX));
        else {
            // The sums of both sixteens would not fit the registers.
            tokens<TOKENS_MAX / 8, GATED, 0, 1>(work, matrix, start, min(left, TOKENS_MAX));
#pragma unroll
            for (int p = 0; p < COLUMNS / 32; p++)
                matrix.read<1, 2>(work.from, work.to_second, work.to_high, p);
            tokens<TOKENS_MAX / 8, GATED, 1, 2>(work, matrix, start, min(left, TOKENS_MAX));
        }
        start += TOKENS_MAX;
    }
}

#define KERNEL(NAME, BLOCKS, TOKENS_MAX, GATED)                                                    \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS)                               \
        NAME##_##BLOCKS(const Number *x, const Number *weight, const int *order,                   \
                        const int *starts, Number *y, int per_token, int inner, int outer) {       \
        expert<GATED, TOKENS_MAX>(x, weight, order, starts, y, per_token, inner, outer);           \
    }

// Registers bound the blocks that a multiprocessor holds, and the tokens that read a matrix once.
KERNEL(gate, 3, 48, true)
KERNEL(gate, 4, 32, true)
KERNEL(down, 3, 48, false)
KERNEL(down, 4, 32, false)

#endif
