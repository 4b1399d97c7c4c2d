// Products with matrices in FP8 (e4m3, and a float32 scale for each row), for the few rows of a
// decoding step: half of the bytes of bfloat16 go from memory to registers, where they become
// bfloat16 again, which holds them exactly. Rows of x are rounded to FP8 too, by the kernel that
// writes them. By each block of the product was slower even for one row, though it saves a launch.

#if BFLOAT16

#define WARPS 8
// Columns that a warp multiplies at a time.
#define COLUMNS 64
// Eights of a row that a thread keeps until the row's largest number is known.
#define EIGHTS 4
// Floats from one row's sums to the next one's in shared memory, by which no two lanes of a warp
// write to one bank.
#define STRIDE 20

// Two e4m3 in the first or second half of four, as bfloat16: in a bfloat16's place the bits of an
// e4m3 are a number that is 2^120 times smaller.
__device__ __forceinline__ u32 widen_pair(u32 four, u32 bytes = 0x1404) {
    const u32 pair = __byte_perm(four, 0, bytes);
    return times((pair & 0x80008000u) | (pair >> 4 & 0x07f007f0u), 0x7b807b80u);
}

// Four e4m3 as two pairs of bfloat16.
__device__ __forceinline__ void widen(u32 four, u32 &first, u32 &second) {
    first = widen_pair(four);
    second = widen_pair(four, 0x3424);
}

// A row's power of two, 2^-exponent and 2^exponent: rounding to e4m3 is by the smallest that brings
// the row's largest number within range, as fp8.cpp's `rounded`.
struct Power {
    float down, up;

    static __device__ __forceinline__ Power of(float largest) {
        // The least exponent whose power reaches a 448th of the largest; 0 for a row of zeros.
        const u32 ratio = __float_as_uint(largest / 448.0f);
        const int above = (int)(ratio >> 23) - 127 + ((ratio & 0x7fffffu) != 0);
        const int exponent = largest > 0.0f ? max(-100, min(100, above)) : 0;
        return {__uint_as_float((u32)(127 - exponent) << 23),
                __uint_as_float((u32)(127 + exponent) << 23)};
    }

    // Two numbers, as bfloat16.
    __device__ __forceinline__ u32 round(float low, float high) const {
        const u32 pair = widen_pair(to_e4m3s(low * down, high * down));
        return times(pair, to_bfloat16s(up, up));
    }

    __device__ __forceinline__ Eight round(const Eight &x) const {
        Eight rounded;
#pragma unroll
        for (int j = 0; j < 4; j++)
            rounded.pairs[j] = round(x[2 * j], x[2 * j + 1]);
        return rounded;
    }
};

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

// A row's power, by the whole block, of which each thread has seen numbers up to `largest`.
__device__ __forceinline__ Power power_of_row(float largest) {
    __shared__ float all[32];
    largest = warp_max(largest);
    if (threadIdx.x % 32 == 0)
        all[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int warp = 0; warp < blockDim.x / 32; warp++)
        largest = fmaxf(largest, all[warp]);
    return Power::of(largest);
}

// Writes a row [width], rounded, by the whole block: `make` gives the eight numbers from a place
// on.
template <typename Make>
__device__ __forceinline__ void write_rounded(Number *to, int width, Make make) {
    Eight kept[EIGHTS];
    float largest = 0.0f;
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
        const int i = (e * blockDim.x + threadIdx.x) * 8;
        if (i >= width)
            break;
        kept[e] = make(i);
        float values[8];
#pragma unroll
        for (int j = 0; j < 8; j++)
            values[j] = kept[e][j];
        largest = largest_of(values, largest);
    }
    const Power power = power_of_row(largest);
#pragma unroll
    for (int e = 0; e < EIGHTS; e++) {
        const int i = (e * blockDim.x + threadIdx.x) * 8;
        if (i < width)
            *(Eight *)(to + i) = power.round(kept[e]);
    }
}

// x rounded: x [B, width], in place; a block takes a row.
extern "C" __global__ void __launch_bounds__(1024) round_rows(Number *x, int width) {
    take_turn();
    Number *row = x + (i64)blockIdx.x * width;
    write_rounded(row, width, [&](int i) { return *(const Eight *)(row + i); });
}

// As rms_norm, and y is rounded.
extern "C" __global__ void __launch_bounds__(1024)
    rms_norm_rounded(const Number *x, const Number *w, Number *y, int width, float epsilon) {
    take_turn();
    const Number *from = x + (i64)blockIdx.x * width;
    const float scale = norm_of_row(from, width, epsilon);
    write_rounded(y + (i64)blockIdx.x * width, width,
                  [&](int i) { return normed_eight(from + i, w + i, scale); });
}

// As silu_mul, and y is rounded; a block takes a row.
extern "C" __global__ void __launch_bounds__(1024)
    silu_mul_rounded(const Number *gate_up, Number *y, int width) {
    take_turn();
    const Number *gate = gate_up + (i64)blockIdx.x * 2 * width;
    write_rounded(y + (i64)blockIdx.x * width, width,
                  [&](int i) { return gate_eight(gate + i, gate + width + i); });
}

// Sixteen rows of a matrix: with g = lane / 4 and t = lane % 4, a lane has of the rows g (low) and
// g + 8 (high) the columns 16t to 16t + 15. As the first operand of multiply_add the columns are in
// another order, which the rows of x share.
struct Sixteen {
    Piece low, high;

    __device__ __forceinline__ void read(const unsigned char *from, i64 to_high) {
        low = read_once(from);
        high = read_once(from + to_high);
    }
};

// The sums of a warp over its columns: lane (g, t) has of row g (0, 1) and g + 8 (2, 3) of the
// matrix the rows 8j + 2t (0, 2) of x and the next.
template <int TILES>
__device__ __forceinline__ void multiply(const Sixteen &matrix, const Number *x,
                                         const u32 (&at)[TILES], float (&sum)[TILES][4]) {
#pragma unroll
    for (int p = 0; p < 2; p++) {
        u32 low[2][2], high[2][2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            widen(matrix.low.at[2 * p + half], low[half][0], low[half][1]);
            widen(matrix.high.at[2 * p + half], high[half][0], high[half][1]);
        }
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            const Piece row = *(const Piece *)(x + at[j] + 8 * p);
#pragma unroll
            for (int half = 0; half < 2; half++)
                multiply_add(sum[j], low[half][0], high[half][0], low[half][1], high[half][1],
                             row.at[2 * half], row.at[2 * half + 1]);
        }
    }
}

// Where the results go, but of a gated product.
enum Out { WIDE, NARROW, ADDED };

// y = x Wᵀ of a block's sixteen rows of W and 8 · TILES rows of x: x [B, inner], w e4m3 [outer,
// inner] with scale [outer], y [B, outer]. Warps share the columns. Where it gates, the sixteen are
// eight rows of the gate and the same of up, outer / 2 behind them, and y = silu(gate) · up is [B,
// outer / 2].
template <int TILES, bool GATES>
__device__ __forceinline__ void product(const Number *x, const unsigned char *w, const float *scale,
                                        void *y, int out, int rows, int inner, int outer) {
    extern __shared__ __align__(16) unsigned char memory[];
    float *sums = (float *)memory;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    constexpr int EACH = GATES ? 8 : 16;
    const int channel = blockIdx.x * EACH, first = blockIdx.y * 8 * TILES;
    const unsigned char *from = w + (i64)(channel + g) * inner + 16 * t;
    const int behind = GATES ? outer / 2 : 8;
    const i64 to_high = (i64)behind * inner;
    Sixteen matrix;
    // Weights do not depend on the kernel before, so they are on their way while it ends.
    if (warp * COLUMNS < inner)
        matrix.read(from + warp * COLUMNS, to_high);
    take_turn();
    const Number *source = x + (i64)first * inner;
    u32 at[TILES];
#pragma unroll
    for (int j = 0; j < TILES; j++)
        at[j] = (u32)min(8 * j + g, rows - first - 1) * inner + 16 * t;
    float sum[TILES][4];
#pragma unroll
    for (int j = 0; j < TILES; j++)
        sum[j][0] = sum[j][1] = sum[j][2] = sum[j][3] = 0.0f;
#pragma unroll 1
    for (int column = warp * COLUMNS; column < inner; column += WARPS * COLUMNS) {
        const Sixteen now = matrix;
        const int next = column + WARPS * COLUMNS;
        if (next < inner)
            matrix.read(from + next, to_high);
        multiply<TILES>(now, source + column, at, sum);
    }
    float *own = sums + warp * 8 * TILES * STRIDE;
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            own[(8 * j + 2 * t + i % 2) * STRIDE + g + i / 2 * 8] = sum[j][i];
    __syncthreads();
    for (int i = threadIdx.x; i < 8 * TILES * EACH; i += 32 * WARPS) {
        const int row = first + i / EACH, column = channel + i % EACH;
        if (row >= rows)
            continue;
        float total = 0.0f, up = 0.0f;
#pragma unroll
        for (int of = 0; of < WARPS; of++) {
            const float *of_warp = sums + (of * 8 * TILES + i / EACH) * STRIDE + i % EACH;
            total += of_warp[0];
            if (GATES)
                up += of_warp[8];
        }
        total *= scale[column];
        const i64 place = (i64)row * (GATES ? outer / 2 : outer) + column;
        if (GATES) {
            up *= scale[column + behind];
            ((Number *)y)[place] = narrow(gated(wide(narrow(total)), wide(narrow(up))));
        } else if (out == WIDE)
            ((float *)y)[place] = total;
        else if (out == NARROW)
            ((Number *)y)[place] = narrow(total);
        else
            ((Number *)y)[place] = narrow(wide(((Number *)y)[place]) + total);
    }
}

// As many blocks as a multiprocessor has registers for: a matrix is read faster by all of its
// blocks at once.
#define KERNEL(NAME, GATES, ROWS)                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, ROWS <= 8 ? 5 : 4)                    \
        NAME##_##ROWS(const Number *x, const unsigned char *w, const float *scale, void *y,        \
                      int out, int rows, int inner, int outer) {                                   \
        product<ROWS / 8, GATES>(x, w, scale, y, out, rows, inner, outer);                         \
    }

KERNEL(product, false, 8)
KERNEL(product, false, 16)
KERNEL(gated, true, 8)
KERNEL(gated, true, 16)

#endif
