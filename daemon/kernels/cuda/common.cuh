// What kernels share. The host puts this text behind ptx.cuh's and before a kernel's own, and
// defines BFLOAT16 as 1 or 0: the dtype of weights, activations and cache.

// A number, and eight neighbouring ones, which are read and written in accesses of 16 bytes and
// held as they are until they are used.
#if BFLOAT16
struct Number {
    u16 bits;
};
__device__ __forceinline__ float wide(Number x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ Number narrow(float x) { return {to_bfloat16(x)}; }

struct alignas(16) Eight {
    u32 pairs[4];

    __device__ __forceinline__ float operator[](int i) const {
        return __uint_as_float(i % 2 ? pairs[i / 2] & 0xffff0000u : pairs[i / 2] << 16);
    }
    static __device__ __forceinline__ Eight of(const float (&x)[8]) {
        return {to_bfloat16s(x[0], x[1]), to_bfloat16s(x[2], x[3]), to_bfloat16s(x[4], x[5]),
                to_bfloat16s(x[6], x[7])};
    }
};
#else
typedef float Number;
__device__ __forceinline__ float wide(Number x) { return x; }
__device__ __forceinline__ Number narrow(float x) { return x; }

struct alignas(16) Eight {
    float numbers[8];

    __device__ __forceinline__ float operator[](int i) const { return numbers[i]; }
    static __device__ __forceinline__ Eight of(const float (&x)[8]) {
        return {x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]};
    }
};
#endif

__device__ __forceinline__ void load(const Number *from, float (&to)[8]) {
    const Eight eight = *(const Eight *)from;
#pragma unroll
    for (int i = 0; i < 8; i++)
        to[i] = eight[i];
}

__device__ __forceinline__ void store(const float (&from)[8], Number *to) {
    *(Eight *)to = Eight::of(from);
}

// Eight neighbouring logits from `id` on; minus infinity behind the last.
__device__ __forceinline__ void read(const Number *from, int id, int vocab, float (&x)[8]) {
    if (vocab % 8 == 0 && id < vocab) {
        load(from + id, x);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        x[i] = id + i < vocab ? wide(from[id + i]) : -INFINITY;
}

// Tokens of a page of the cache.
#define PAGE 64

// The place of a row's token in a layer's memory [pages, heads, PAGE, width], in units of `width`:
// the row's tokens are in the pages that its line of the page table names.
__device__ __forceinline__ i64 in_pages(const int *row_pages, int place, int heads, int head) {
    const u32 at = place;
    return ((i64)row_pages[at / PAGE] * heads + head) * PAGE + at % PAGE;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

__device__ __forceinline__ float largest_of(const float (&values)[8], float largest) {
#pragma unroll
    for (int j = 0; j < 8; j++)
        largest = fmaxf(largest, fabsf(values[j]));
    return largest;
}

// 1 / sqrt(mean(x²) + epsilon) of a row x [width], by the whole block, statistics in float32.
__device__ __forceinline__ float norm_of_row(const Number *x, int width, float epsilon) {
    float sum = 0.0f;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        float values[8];
        load(x + i, values);
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum += values[j] * values[j];
    }
    __shared__ float sums[32];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = sum;
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp < blockDim.x / 32; warp++)
        total += sums[warp];
    return rsqrtf(total / (float)width + epsilon);
}

// w x times a row's scale, of eight numbers.
__device__ __forceinline__ Eight normed_eight(const Number *x, const Number *w, float scale) {
    float values[8], weights[8];
    load(x, values);
    load(w, weights);
#pragma unroll
    for (int j = 0; j < 8; j++)
        values[j] *= scale * weights[j];
    return Eight::of(values);
}

// silu(gate) · up, rounded between the two operations, as libtorch's silu and product are.
__device__ __forceinline__ float gated(float gate, float up) {
    return wide(narrow(gate / (1.0f + expf(-gate)))) * up;
}

// The same of eight numbers.
__device__ __forceinline__ Eight gate_eight(const Number *gate, const Number *up) {
    float values[8], of_up[8];
    load(gate, values);
    load(up, of_up);
#pragma unroll
    for (int j = 0; j < 8; j++)
        values[j] = gated(values[j], of_up[j]);
    return Eight::of(values);
}
