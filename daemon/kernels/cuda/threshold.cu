// Where top-k and top-p cut a row's ids off.

#define THREADS 1024
// Bins of one look at a row; three looks tell any two float32 apart.
#define BINS 2048
#define LOOKS 3
// A mass of 1 in whole numbers, so that sums do not depend on their order.
#define MASS_ONE 17592186044416.0 // 2^44
// Most ids of a row: their masses' sum stays below 2^63.
#define VOCAB_MAX 524288

typedef unsigned long long u64;

// The chosen bins of the looks so far: an id is inside if its own are the same.
struct Range {
    float low[LOOKS], scale[LOOKS];
    int chosen[LOOKS];
    int looks;
};

__device__ __forceinline__ int bin_of(float distance, float low, float scale) {
    return min(max((int)((distance - low) * scale), 0), BINS - 1);
}

__device__ __forceinline__ bool inside(const Range &range, float distance) {
    bool same = true;
#pragma unroll
    for (int look = 0; look < LOOKS; look++)
        if (look < range.looks)
            same = same &&
                   bin_of(distance, range.low[look], range.scale[look]) == range.chosen[look];
    return same;
}

struct Memory {
    u64 masses[BINS];
    u32 counts[BINS];
    // Largest distance of each bin, by its bits.
    u32 farthest[BINS];
    u64 of_warps[THREADS / 32];
    u64 before;
    int chosen;
};

// The distance from the top of the last id that is needed until the count (or the mass) of the
// likeliest ids reaches the goal. `goal_of(total)` is told the mass of all ids within `limit`.
template <bool BY_MASS, typename Goal>
__device__ float search(const Number *logits, int vocab, float top, float farthest, float inverse,
                        float limit, Goal goal_of, Memory &memory) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Range range;
    range.looks = 0;
    u64 before = 0, goal = 0;
    float low = 0.0f, width = fmaxf(farthest, 1e-30f) / (float)(BINS - 1);
#pragma unroll
    for (int look = 0; look < LOOKS; look++) {
        for (int bin = threadIdx.x; bin < BINS; bin += THREADS) {
            memory.masses[bin] = 0;
            memory.counts[bin] = 0;
            memory.farthest[bin] = 0;
        }
        __syncthreads();
        const float scale = 1.0f / width;
        for (int id = threadIdx.x * 8; id < vocab; id += THREADS * 8) {
            float x[8];
            read(logits, id, vocab, x);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float distance = (top - x[i]) * inverse;
                // Neither NaN nor infinite.
                if (!(distance <= limit) || !inside(range, distance))
                    continue;
                const int bin = bin_of(distance, low, scale);
                if (BY_MASS)
                    atomicAdd(&memory.masses[bin], (u64)((double)expf(-distance) * MASS_ONE));
                atomicAdd(&memory.counts[bin], 1u);
                atomicMax(&memory.farthest[bin], __float_as_uint(distance));
            }
        }
        __syncthreads();
        // Each thread has two bins; a scan over the block finds the one where the goal is reached.
        const int bin = threadIdx.x * 2;
        const u64 first = BY_MASS ? memory.masses[bin] : (u64)memory.counts[bin];
        const u64 second = BY_MASS ? memory.masses[bin + 1] : (u64)memory.counts[bin + 1];
        u64 reached = first + second;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const u64 other = __shfl_up_sync(0xffffffffu, reached, distance);
            if (lane >= distance)
                reached += other;
        }
        if (lane == 31)
            memory.of_warps[warp] = reached;
        if (threadIdx.x == 0)
            memory.chosen = -1;
        __syncthreads();
        u64 total = 0;
        for (int w = 0; w < THREADS / 32; w++) {
            if (w < warp)
                reached += memory.of_warps[w];
            total += memory.of_warps[w];
        }
        if (look == 0)
            goal = goal_of(total);
        reached += before;
        const u64 start = reached - first - second;
        if (start < goal && start + first >= goal) {
            memory.chosen = bin;
            memory.before = start;
        } else if (start + first < goal && reached >= goal) {
            memory.chosen = bin + 1;
            memory.before = start + first;
        }
        __syncthreads();
        const int chosen = memory.chosen;
        // No id reaches the goal: all are inside.
        if (chosen < 0)
            return limit;
        const float last = __uint_as_float(memory.farthest[chosen]);
        const bool alone = memory.counts[chosen] == 1;
        before = memory.before;
        range.low[look] = low;
        range.scale[look] = scale;
        range.chosen[look] = chosen;
        range.looks = look + 1;
        __syncthreads();
        if (alone || look == LOOKS - 1)
            return last;
        low = low + (float)chosen * width;
        width = width / (float)BINS;
    }
    return limit;
}

// The largest distance (top - logit) / temperature that an id may have: logits [B, vocab] → limits
// [B]. top_k = 0 and top_p = 1 are off; top-p is a share of what top-k left. Ties with the last id
// stay. One block takes one row; rows from `live` on do nothing.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    threshold(const Number *logits, const int *live, float *limits, int vocab, float temperature,
              int top_k, float top_p) {
    take_turn();
    const int row = blockIdx.x;
    if (row >= *live)
        return;
    __shared__ Memory memory;
    const Number *from = logits + (i64)row * vocab;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float inverse = 1.0f / temperature;
    float top = -INFINITY, lowest = INFINITY;
    for (int id = threadIdx.x * 8; id < vocab; id += THREADS * 8) {
        float x[8];
        read(from, id, vocab, x);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            top = fmaxf(top, x[i]);
            lowest = x[i] > -INFINITY ? fminf(lowest, x[i]) : lowest;
        }
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance));
        lowest = fminf(lowest, __shfl_xor_sync(0xffffffffu, lowest, distance));
    }
    __shared__ float tops[THREADS / 32], lowests[THREADS / 32];
    if (lane == 0) {
        tops[warp] = top;
        lowests[warp] = lowest;
    }
    __syncthreads();
    for (int w = 0; w < THREADS / 32; w++) {
        top = fmaxf(top, tops[w]);
        lowest = fminf(lowest, lowests[w]);
    }
    const float farthest = (top - lowest) * inverse;
    float limit = farthest;
    // Logits that are not finite are noticed by the draw.
    if (farthest >= 0.0f && farthest < INFINITY) {
        if (top_k > 0 && top_k < vocab)
            limit = search<false>(from, vocab, top, farthest, inverse, limit,
                                  [=](u64) { return (u64)top_k; }, memory);
        if (top_p < 1.0f)
            limit = search<true>(
                from, vocab, top, farthest, inverse, limit,
                [=](u64 total) { return (u64)((double)top_p * (double)total); }, memory);
    }
    if (threadIdx.x == 0)
        limits[row] = limit;
}
