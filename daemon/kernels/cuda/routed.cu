// The way of a training pass's tokens to their routed experts and back, forward and backward. A
// pair is a token and one of its K experts; pairs lie in the order of their experts, and within an
// expert in their own. Each sum has an order of its own: a token's experts from the first to the
// last.

// Pairs that a block sorts.
#define TILE 256

// counts [tiles, E]: how often each expert is in a tile of `chosen`, int64 [pairs].
extern "C" __global__ void count_pairs(const i64 *chosen, int *counts, int pairs, int experts) {
    extern __shared__ int found[];
    for (int expert = threadIdx.x; expert < experts; expert += TILE)
        found[expert] = 0;
    __syncthreads();
    const int pair = blockIdx.x * TILE + threadIdx.x;
    if (pair < pairs)
        atomicAdd(found + (int)chosen[pair], 1);
    __syncthreads();
    for (int expert = threadIdx.x; expert < experts; expert += TILE)
        counts[blockIdx.x * experts + expert] = found[expert];
}

// place [pairs]: where each pair lies in the order of the experts; ends [E]: the end of each
// expert's pairs. A block has a tile, and counts the pairs before it from `counts`.
extern "C" __global__ void place_pairs(const i64 *chosen, const int *counts, int *place, int *ends,
                                       int pairs, int experts) {
    // Pairs of each expert up to and with it, and those of the expert in earlier tiles.
    extern __shared__ int sums[];
    __shared__ int of_tile[TILE];
    int *totals = sums, *earlier = sums + experts;
    for (int expert = threadIdx.x; expert < experts; expert += TILE)
        totals[expert] = earlier[expert] = 0;
    const int pair = blockIdx.x * TILE + threadIdx.x;
    const int own = pair < pairs ? (int)chosen[pair] : -1;
    of_tile[threadIdx.x] = own;
    __syncthreads();
    for (int i = threadIdx.x; i < (int)gridDim.x * experts; i += TILE) {
        const int expert = i % experts, count = counts[i];
        atomicAdd(totals + expert, count);
        if (i / experts < (int)blockIdx.x)
            atomicAdd(earlier + expert, count);
    }
    __syncthreads();
    if (threadIdx.x == 0)
        for (int expert = 1; expert < experts; expert++)
            totals[expert] += totals[expert - 1];
    __syncthreads();
    if (own >= 0) {
        int rank = own > 0 ? totals[own - 1] + earlier[own] : earlier[own];
        for (int i = 0; i < (int)threadIdx.x; i++)
            rank += of_tile[i] == own;
        place[pair] = rank;
    }
    if (blockIdx.x == 0)
        for (int expert = threadIdx.x; expert < experts; expert += TILE)
            ends[expert] = totals[expert];
}

// rows[place[t, k]] = x[t]: x [T, width], place [T, K], rows [T · K, width]. Here and below a block
// has a token, a thread eight numbers of it.
extern "C" __global__ void spread_rows(const Number *x, const int *place, Number *rows,
                                       int per_token, int width) {
    const int i = threadIdx.x * 8;
    if (i >= width)
        return;
    const Eight eight = *(const Eight *)(x + (i64)blockIdx.x * width + i);
    for (int k = 0; k < per_token; k++)
        *(Eight *)(rows + (i64)place[blockIdx.x * per_token + k] * width + i) = eight;
}

// The gradient of spread_rows' x: x[t] = Σ_k rows[place[t, k]].
extern "C" __global__ void sum_rows(const Number *rows, const int *place, Number *x, int per_token,
                                    int width) {
    const int i = threadIdx.x * 8;
    if (i >= width)
        return;
    float total[8] = {};
#pragma unroll 4
    for (int k = 0; k < per_token; k++) {
        float row[8];
        load(rows + (i64)place[blockIdx.x * per_token + k] * width + i, row);
#pragma unroll
        for (int j = 0; j < 8; j++)
            total[j] += row[j];
    }
    store(total, x + (i64)blockIdx.x * width + i);
}

// y[t] = Σ_k gates[t, k] · rows[place[t, k]] + more[t], without `more` (null) the sum alone: gates
// float32 [T, K], more, y [T, width].
extern "C" __global__ void weigh_rows(const Number *rows, const int *place, const float *gates,
                                      const Number *more, Number *y, int per_token, int width) {
    const int i = threadIdx.x * 8;
    if (i >= width)
        return;
    const i64 at = (i64)blockIdx.x * width + i;
    float total[8] = {};
    if (more)
        load(more + at, total);
#pragma unroll 4
    for (int k = 0; k < per_token; k++) {
        const int pair = blockIdx.x * per_token + k;
        const float gate = gates[pair];
        float row[8];
        load(rows + (i64)place[pair] * width + i, row);
#pragma unroll
        for (int j = 0; j < 8; j++)
            total[j] += gate * row[j];
    }
    store(total, y + at);
}

// Rows that are on their way at a time: the gradients are written over them, so that no row could
// be read ahead of another's gradient.
#define AHEAD 4

// The gradients of weigh_rows: that of the gates, and in the place of the rows theirs. dy [T,
// width], of_gates [T, K].
extern "C" __global__ void weigh_rows_backward(const Number *dy, const int *place,
                                               const float *gates, Number *rows, float *of_gates,
                                               int per_token, int width) {
    // Each warp's part of the products, by the token's experts, of which there are at most 32.
    __shared__ float parts[32][32];
    const int i = threadIdx.x * 8, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int pairs = blockIdx.x * per_token;
    float slope[8] = {};
    if (i < width)
        load(dy + (i64)blockIdx.x * width + i, slope);
    for (int first = 0; first < per_token; first += AHEAD) {
        Eight ahead[AHEAD] = {};
        float dots[AHEAD] = {};
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (i < width && first + k < per_token)
                ahead[k] = *(const Eight *)(rows + (i64)place[pairs + first + k] * width + i);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
#pragma unroll
            for (int j = 0; j < 8; j++)
                dots[k] += slope[j] * ahead[k][j];
            dots[k] = warp_sum(dots[k]);
        }
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (first + k >= per_token)
                continue;
            const float gate = gates[pairs + first + k];
            float gradient[8];
#pragma unroll
            for (int j = 0; j < 8; j++)
                gradient[j] = gate * slope[j];
            if (i < width)
                store(gradient, rows + (i64)place[pairs + first + k] * width + i);
            if (lane == 0)
                parts[first + k][warp] = dots[k];
        }
    }
    __syncthreads();
    if (threadIdx.x >= per_token)
        return;
    float total = 0.0f;
    for (int of = 0; of < (int)blockDim.x / 32; of++)
        total += parts[threadIdx.x][of];
    of_gates[pairs + threadIdx.x] = total;
}

// Keeps the sum of a token's scores away from 0.
#define EPSILON 1e-20f

// gates[t, k] = factor · s_k, with `normalise` over Σ s: scores [T, E], chosen int64 [T, K], s_k =
// scores[t, chosen[t, k]]. A warp has a token, a lane an expert of it; K is at most 32.
extern "C" __global__ void weigh_experts(const float *scores, const i64 *chosen, float *gates,
                                         int rows, int experts, int per_token, int normalise,
                                         float factor) {
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= rows)
        return;
    const bool has = lane < per_token;
    const i64 at = (i64)row * per_token + lane;
    const float score = has ? scores[(i64)row * experts + chosen[at]] : 0.0f;
    const float sum = warp_sum(score);
    if (has)
        gates[at] = (normalise ? score / (sum + EPSILON) : score) * factor;
}

// The gradient of weigh_experts' scores, of all experts: of_gates [T, K] → of_scores [T, E].
extern "C" __global__ void weigh_experts_backward(const float *of_gates, const float *scores,
                                                  const i64 *chosen, float *of_scores, int rows,
                                                  int experts, int per_token, int normalise,
                                                  float factor) {
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (row >= rows)
        return;
    const bool has = lane < per_token;
    const i64 at = (i64)row * per_token + lane;
    const int own = has ? (int)chosen[at] : -1;
    const float score = has ? scores[(i64)row * experts + own] : 0.0f;
    float slope = has ? of_gates[at] * factor : 0.0f;
    const float sum = warp_sum(score) + EPSILON, dot = warp_sum(slope * score);
    if (normalise)
        slope = (slope - dot / sum) / sum;
    for (int first = 0; first < experts; first += 32) {
        float total = 0.0f;
        for (int k = 0; k < per_token; k++) {
            const float of_k = __shfl_sync(0xffffffffu, slope, k);
            if (__shfl_sync(0xffffffffu, own, k) == first + lane)
                total += of_k;
        }
        if (first + lane < experts)
            of_scores[(i64)row * experts + first + lane] = total;
    }
}
