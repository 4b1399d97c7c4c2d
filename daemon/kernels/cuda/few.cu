// Matrix products with few rows, which are bound by reading the weights once: a warp takes one row
// of the matrix at a time, for all rows of x.

#define WARPS 8

// What is done before and behind the product.
enum Shape {
    // y = norm(x) Wᵀ, y float32.
    NORMED,
    // y += x Wᵀ.
    ADDED,
    // y = silu(gate) · up of norm(x) Wᵀ, gate before up: y is half as wide as W is high.
    GATED,
    // y = norm(x) Wᵀ.
    PLAIN,
};

// Pieces of eight numbers that a lane reads of a row of the matrix before it computes with them.
template <Shape SHAPE> constexpr int AHEAD = (SHAPE == GATED ? 16 : 32) / sizeof(Number) / 2;

// The beginning of a row of the matrix, and of the row of `up` beside it where gates are applied: a
// lane has every 32nd piece.
template <Shape SHAPE> struct Weights {
    Eight row[AHEAD<SHAPE>], up[SHAPE == GATED ? AHEAD<SHAPE> : 1];

    __device__ __forceinline__ void read(const Number *from, i64 to_up, int inner) {
#pragma unroll
        for (int a = 0; a < AHEAD<SHAPE>; a++) {
            const int i = (a * 32 + threadIdx.x % 32) * 8;
            if (i >= inner)
                break;
            row[a] = *(const Eight *)(from + i);
            if (SHAPE == GATED)
                up[a] = *(const Eight *)(from + to_up + i);
        }
    }
};

// sum[r] += weights · x[r] of eight numbers of each row.
template <int ROWS>
__device__ __forceinline__ void add_product(float (&sum)[ROWS], const Eight &weights,
                                            const Number *x, int inner) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float values[8];
        load(x + r * inner, values);
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum[r] += weights[j] * values[j];
    }
}

// One column of y, by a warp: `from` is x, normed where the shape norms it.
template <int ROWS, Shape SHAPE>
__device__ __forceinline__ void product(const Number *from, const Weights<SHAPE> &weights,
                                        const Number *row, i64 to_up, void *y, int inner,
                                        int outer, int column) {
    const int lane = threadIdx.x % 32;
    float sum[ROWS], up[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        sum[r] = up[r] = 0.0f;
#pragma unroll
    for (int a = 0; a < AHEAD<SHAPE>; a++) {
        const int i = (a * 32 + lane) * 8;
        if (i >= inner)
            break;
        add_product<ROWS>(sum, weights.row[a], from + i, inner);
        if (SHAPE == GATED)
            add_product<ROWS>(up, weights.up[a], from + i, inner);
    }
#pragma unroll 4
    for (int i = (AHEAD<SHAPE> * 32 + lane) * 8; i < inner; i += 32 * 8) {
        add_product<ROWS>(sum, *(const Eight *)(row + i), from + i, inner);
        if (SHAPE == GATED)
            add_product<ROWS>(up, *(const Eight *)(row + to_up + i), from + i, inner);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        sum[r] = warp_sum(sum[r]);
        if (SHAPE == GATED)
            up[r] = warp_sum(up[r]);
    }
    if (lane != 0)
        return;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const i64 at = (i64)r * outer + column;
        if (SHAPE == NORMED)
            ((float *)y)[at] = sum[r];
        else if (SHAPE == ADDED)
            ((Number *)y)[at] = narrow(wide(((Number *)y)[at]) + sum[r]);
        else if (SHAPE == PLAIN)
            ((Number *)y)[at] = narrow(sum[r]);
        else
            ((Number *)y)[at] = narrow(gated(wide(narrow(sum[r])), wide(narrow(up[r]))));
    }
}

// normed = norm(x) for all rows, by the whole block.
template <int ROWS>
__device__ __forceinline__ void norm_rows(const Number *x, const Number *norm, float epsilon,
                                          Number *normed, int inner) {
    __shared__ float sums[ROWS][WARPS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float sum = 0.0f;
        for (int i = threadIdx.x * 8; i < inner; i += 32 * WARPS * 8) {
            float values[8];
            load(x + (i64)r * inner + i, values);
#pragma unroll
            for (int j = 0; j < 8; j++)
                sum += values[j] * values[j];
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0)
            sums[r][threadIdx.x / 32] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            total += sums[r][w];
        const float scale = rsqrtf(total / (float)inner + epsilon);
        for (int i = threadIdx.x * 8; i < inner; i += 32 * WARPS * 8) {
            float values[8], weights[8];
            load(x + (i64)r * inner + i, values);
            load(norm + i, weights);
#pragma unroll
            for (int j = 0; j < 8; j++)
                values[j] *= scale * weights[j];
            store(values, normed + r * inner + i);
        }
    }
    __syncthreads();
}

// x [ROWS, inner], weight [outer, inner] (GATED: [2 · outer, inner]), norm [inner] → y [ROWS,
// outer]. Needs ROWS · inner numbers of shared memory where it norms.
template <int ROWS, Shape SHAPE>
__device__ __forceinline__ void few(const Number *x, const Number *norm, float epsilon,
                                    const Number *weight, void *y, int inner, int outer) {
    extern __shared__ __align__(16) unsigned char memory[];
    Number *normed = (Number *)memory;
    const int first = blockIdx.x * WARPS + threadIdx.x / 32;
    const i64 to_up = (i64)outer * inner;
    // Weights do not depend on the kernel before, so they are on their way while it ends.
    Weights<SHAPE> weights;
    if (first < outer)
        weights.read(weight + (i64)first * inner, to_up, inner);
    take_turn();
    if (SHAPE != ADDED)
        norm_rows<ROWS>(x, norm, epsilon, normed, inner);
    for (int column = first; column < outer; column += gridDim.x * WARPS) {
        const Number *row = weight + (i64)column * inner;
        if (column != first)
            weights.read(row, to_up, inner);
        product<ROWS, SHAPE>(SHAPE == ADDED ? x : normed, weights, row, to_up, y, inner, outer,
                             column);
    }
}

#define KERNEL(NAME, ROWS, SHAPE)                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * WARPS)                                       \
        NAME##_##ROWS(const Number *x, const Number *norm, float epsilon, const Number *weight,    \
                      void *y, int inner, int outer) {                                             \
        few<ROWS, SHAPE>(x, norm, epsilon, weight, y, inner, outer);                               \
    }
#define KERNELS(ROWS)                                                                              \
    KERNEL(normed, ROWS, NORMED)                                                                   \
    KERNEL(added, ROWS, ADDED)                                                                     \
    KERNEL(gated, ROWS, GATED)                                                                     \
    KERNEL(plain, ROWS, PLAIN)

KERNELS(1)
KERNELS(2)
KERNELS(4)
