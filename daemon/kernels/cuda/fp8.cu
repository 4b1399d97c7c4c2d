// Products with matrices in FP8 (e4m3, and a float32 scale for each row), for the few rows of a
// decoding step: half of the bytes of bfloat16 go from memory to registers, where they become
// bfloat16 again, which holds them exactly.

#if BFLOAT16

#define WARPS 8
// Columns that a warp multiplies at a time.
#define COLUMNS 64
// Floats from one row's sums to the next one's in shared memory, by which no two lanes of a warp
// write to one bank.
#define STRIDE 20

// x rounded to e4m3 by a power of two for each row, the smallest that brings its largest number
// within range: x [B, width], in place; a block takes a row. As fp8.cpp's `rounded`.
extern "C" __global__ void round_rows(Number *x, int width) {
    take_turn();
    Number *row = x + (i64)blockIdx.x * width;
    float largest = 0.0f;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        float values[8];
        load(row + i, values);
#pragma unroll
        for (int j = 0; j < 8; j++)
            largest = fmaxf(largest, fabsf(values[j]));
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
    __shared__ float all[32];
    if (threadIdx.x % 32 == 0)
        all[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int warp = 0; warp < blockDim.x / 32; warp++)
        largest = fmaxf(largest, all[warp]);
    // The least exponent whose power reaches a 448th of the largest; 0 for a row of zeros.
    const u32 ratio = __float_as_uint(largest / 448.0f);
    const int above = (int)(ratio >> 23) - 127 + ((ratio & 0x7fffffu) != 0);
    const int exponent = largest > 0.0f ? max(-100, min(100, above)) : 0;
    const float down = __uint_as_float((u32)(127 - exponent) << 23);
    const float up = __uint_as_float((u32)(127 + exponent) << 23);
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        float values[8];
        load(row + i, values);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float value = values[j] * down;
            const u32 bits = __float_as_uint(value);
            // Three bits behind the leading one, or steps of 2^-9 below the smallest normal number.
            const float normal =
                __uint_as_float((bits + 0x7ffffu + (bits >> 20 & 1)) & 0xfff00000u);
            const float small = rintf(value * 512.0f) / 512.0f;
            values[j] = (fabsf(value) < 0.015625f ? small : normal) * up;
        }
        store(values, row + i);
    }
}

// Four e4m3 as two pairs of bfloat16. In a bfloat16's place the bits of an e4m3 are a number that
// is 2^120 times smaller.
__device__ __forceinline__ void widen(u32 four, u32 &first, u32 &second) {
    const u32 low = __byte_perm(four, 0, 0x1404), high = __byte_perm(four, 0, 0x3424);
    first = times_2_120((low & 0x80008000u) | (low >> 4 & 0x07f007f0u));
    second = times_2_120((high & 0x80008000u) | (high >> 4 & 0x07f007f0u));
}

// Sixteen rows of a matrix, SIXTEENS times: with g = lane / 4 and t = lane % 4, a lane has of rows
// g (low) and g + 8 (high) of each the columns 16t to 16t + 15. As the first operand of
// multiply_add the columns are in another order, which the rows of x share.
template <int SIXTEENS> struct Matrix {
    Piece low[SIXTEENS], high[SIXTEENS];

    // `from` is where row g of the first sixteen begins for this lane, `rows` how many rows there
    // are from that sixteen's first on: those behind the last are read as row g.
    __device__ __forceinline__ void read(const unsigned char *from, int inner, int rows) {
        const int g = threadIdx.x % 32 / 4;
#pragma unroll
        for (int m = 0; m < SIXTEENS; m++) {
            const bool exists = 16 * m + g < rows;
            low[m] = read_once(from + (exists ? (i64)16 * m * inner : 0));
            high[m] = read_once(from + (exists ? (i64)(16 * m + 8) * inner : 0));
        }
    }
};

// Where the results go.
enum Out { WIDE, NARROW, ADDED };

// The sums of a warp over its columns: lane (g, t) has of row g (0, 1) and g + 8 (2, 3) of each
// sixteen the rows 8j + 2t (0, 2) of x and the next.
template <int SIXTEENS, int TILES>
__device__ __forceinline__ void multiply(const Matrix<SIXTEENS> &matrix, const Number *x,
                                         const u32 (&at)[TILES],
                                         float (&sum)[SIXTEENS][TILES][4]) {
#pragma unroll
    for (int p = 0; p < 2; p++) {
        u32 low[2][SIXTEENS][2], high[2][SIXTEENS][2];
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int m = 0; m < SIXTEENS; m++) {
                widen(matrix.low[m].at[2 * p + half], low[half][m][0], low[half][m][1]);
                widen(matrix.high[m].at[2 * p + half], high[half][m][0], high[half][m][1]);
            }
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            const Piece row = *(const Piece *)(x + at[j] + 8 * p);
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int m = 0; m < SIXTEENS; m++)
                    multiply_add(sum[m][j], low[half][m][0], high[half][m][0], low[half][m][1],
                                 high[half][m][1], row.at[2 * half], row.at[2 * half + 1]);
        }
    }
}

// y = x Wᵀ of a block's rows of W, 16 · SIXTEENS, and 8 · TILES rows of x: x [B, inner], w e4m3
// [outer, inner] with scale [outer], y [B, outer]. Warps share the columns.
template <int SIXTEENS, int TILES>
__device__ __forceinline__ void product(const Number *x, const unsigned char *w,
                                        const float *scale, void *y, int out, int rows, int inner,
                                        int outer) {
    extern __shared__ __align__(16) unsigned char memory[];
    float *sums = (float *)memory;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int channel = blockIdx.x * 16 * SIXTEENS, first = blockIdx.y * 8 * TILES;
    const unsigned char *from = w + (i64)(channel + g) * inner + 16 * t;
    const int behind = outer - channel;
    Matrix<SIXTEENS> matrix;
    // Weights do not depend on the kernel before, so they are on their way while it ends.
    if (warp * COLUMNS < inner)
        matrix.read(from + warp * COLUMNS, inner, behind);
    u32 at[TILES];
#pragma unroll
    for (int j = 0; j < TILES; j++)
        at[j] = (u32)min(first + 8 * j + g, rows - 1) * inner + 16 * t;
    float sum[SIXTEENS][TILES][4];
#pragma unroll
    for (int m = 0; m < SIXTEENS; m++)
#pragma unroll
        for (int j = 0; j < TILES; j++)
            sum[m][j][0] = sum[m][j][1] = sum[m][j][2] = sum[m][j][3] = 0.0f;
    take_turn();
#pragma unroll 1
    for (int column = warp * COLUMNS; column < inner; column += WARPS * COLUMNS) {
        const Matrix<SIXTEENS> now = matrix;
        const int next = column + WARPS * COLUMNS;
        if (next < inner)
            matrix.read(from + next, inner, behind);
        multiply<SIXTEENS, TILES>(now, x + column, at, sum);
    }
#pragma unroll
    for (int m = 0; m < SIXTEENS; m++) {
        float *own = sums + warp * 8 * TILES * STRIDE;
        __syncthreads();
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                own[(8 * j + 2 * t + i % 2) * STRIDE + g + i / 2 * 8] = sum[m][j][i];
        __syncthreads();
        for (int i = threadIdx.x; i < 8 * TILES * 16; i += 32 * WARPS) {
            const int row = first + i / 16, column = channel + 16 * m + i % 16;
            if (row >= rows || column >= outer)
                continue;
            float total = 0.0f;
#pragma unroll
            for (int of = 0; of < WARPS; of++)
                total += sums[(of * 8 * TILES + i / 16) * STRIDE + i % 16];
            total *= scale[column];
            const i64 place = (i64)row * outer + column;
            if (out == WIDE)
                ((float *)y)[place] = total;
            else if (out == NARROW)
                ((Number *)y)[place] = narrow(total);
            else
                ((Number *)y)[place] = narrow(wide(((Number *)y)[place]) + total);
        }
    }
}

#define KERNEL(SIXTEENS, TILES, BLOCKS)                                                            \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS)                               \
        product_##SIXTEENS##_##TILES(const Number *x, const unsigned char *w, const float *scale,  \
                                     void *y, int out, int rows, int inner, int outer) {           \
        product<SIXTEENS, TILES>(x, w, scale, y, out, rows, inner, outer);                         \
    }

KERNEL(1, 1, 3)
KERNEL(1, 2, 3)

#endif
