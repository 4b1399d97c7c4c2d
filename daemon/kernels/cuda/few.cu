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

// One column of y, by a warp: `from` is x, normed where the shape norms it.
template <int ROWS, Shape SHAPE>
__device__ __forceinline__ void product(const Number *from, const Number *weight, void *y,
                                        int inner, int outer, int column) {
    const int lane = threadIdx.x % 32;
    const Number *row = weight + (i64)column * inner;
    const Number *other = row + (SHAPE == GATED ? (i64)outer * inner : 0);
    float sum[ROWS], up[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        sum[r] = up[r] = 0.0f;
#pragma unroll 4
    for (int i = lane * 8; i < inner; i += 32 * 8) {
        float w[8], v[8];
        load(row + i, w);
        if (SHAPE == GATED)
            load(other + i, v);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float values[8];
            load(from + r * inner + i, values);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                sum[r] += w[j] * values[j];
                if (SHAPE == GATED)
                    up[r] += v[j] * values[j];
            }
        }
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
        else {
            const float gate = wide(narrow(sum[r]));
            const float silu = wide(narrow(gate / (1.0f + expf(-gate))));
            ((Number *)y)[at] = narrow(silu * wide(narrow(up[r])));
        }
    }
}

// x [ROWS, inner], weight [outer, inner] (GATED: [2 · outer, inner]), norm [inner] → y [ROWS,
// outer]. Needs ROWS · inner numbers of shared memory where it norms.
template <int ROWS, Shape SHAPE>
__device__ __forceinline__ void few(const Number *x, const Number *norm, float epsilon,
                                    const Number *weight, void *y, int inner, int outer) {
    extern __shared__ __align__(16) unsigned char memory[];
    Number *normed = (Number *)memory;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first = blockIdx.x * WARPS + warp;
    // Weights do not depend on the kernel before, so they are on their way while it ends.
    if (first < outer) {
        const int line = 128 / sizeof(Number);
        const Number *row = weight + (i64)first * inner;
        for (int at = lane * line; at < min(inner, 64 * line); at += 32 * line) {
            asm volatile("prefetch.global.L2 [%0];" ::"l"(row + at));
            if (SHAPE == GATED)
                asm volatile("prefetch.global.L2 [%0];" ::"l"(row + (i64)outer * inner + at));
        }
    }
    take_turn();
    if (SHAPE != ADDED) {
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
            if (lane == 0)
                sums[r][warp] = sum;
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
    for (int column = first; column < outer; column += gridDim.x * WARPS)
        product<ROWS, SHAPE>(SHAPE == ADDED ? x : normed, weight, y, inner, outer, column);
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
