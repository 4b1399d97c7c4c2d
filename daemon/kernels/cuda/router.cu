// The router of a mixture of experts, the order in which tokens go to their experts, and the sum of
// what comes back.
//
// The host defines EXPERTS, the routed experts.

// Experts that a lane has: i · 32 + lane.
#define EACH ((EXPERTS + 31) / 32)
// Keeps the sum of a token's scores away from 0.
#define NORMALISATION_EPSILON 1e-20f

// How logits become scores.
#define SIGMOID 0
#define SOFTMAX 1
// The softmax of logits in the model's dtype.
#define SOFTMAX_OF_NARROW 2

struct Candidate {
    float score;
    int at;
};

// The higher score; of equal ones the first.
__device__ __forceinline__ Candidate better(Candidate a, Candidate b) {
    return a.score > b.score || (a.score == b.score && a.at < b.at) ? a : b;
}

__device__ __forceinline__ Candidate best_of_warp(Candidate own) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const Candidate other = {__shfl_xor_sync(0xffffffffu, own.score, distance),
                                 __shfl_xor_sync(0xffffffffu, own.at, distance)};
        own = better(own, other);
    }
    return own;
}

// Each expert's score, from its logit.
__device__ __forceinline__ void score(float (&x)[EACH], int scoring, int lane) {
    float largest = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        if (scoring == SOFTMAX_OF_NARROW)
            x[i] = wide(narrow(x[i]));
        largest = fmaxf(largest, x[i]);
    }
    if (scoring == SIGMOID) {
#pragma unroll
        for (int i = 0; i < EACH; i++)
            x[i] = 1.0f / (1.0f + expf(-x[i]));
        return;
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        x[i] = i * 32 + lane < EXPERTS ? expf(x[i] - largest) : 0.0f;
        sum += x[i];
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < EACH; i++)
        x[i] /= sum;
}

// The groups that experts may come from, one bit each: those with the highest sums of their
// `best_of_group` (1 or 2) best experts.
__device__ __forceinline__ u32 kept_groups(const float *choice, int groups, int groups_per_token,
                                           int best_of_group, int lane) {
    Candidate own = {-INFINITY, lane};
    if (lane < groups) {
        float best = -INFINITY, second = -INFINITY;
        const int size = EXPERTS / groups;
        for (int e = lane * size; e < (lane + 1) * size; e++) {
            second = fmaxf(second, fminf(best, choice[e]));
            best = fmaxf(best, choice[e]);
        }
        own.score = best_of_group > 1 ? best + second : best;
    }
    bool kept = false;
    for (int k = 0; k < groups_per_token; k++) {
        const Candidate mine = kept ? Candidate{-INFINITY, 32 + lane} : own;
        if (best_of_warp(mine).at == lane)
            kept = true;
    }
    return __ballot_sync(0xffffffffu, kept && lane < groups);
}

// Chooses a token's experts by score plus bias within the best groups, of equal ones the first, and
// weighs them by the score alone (DeepSeek-V3 (12)–(16)): logits float32 [B, EXPERTS], bias
// [EXPERTS] or null → chosen int32 [B, K], the best first, and gates float32 [B, K]; unless
// `record` is null, the experts too go to `record` [steps, B, `stride`] of the step at hand. A warp
// takes a row; rows from `live` on do nothing.
extern "C" __global__ void route(const float *logits, const float *bias, const int *live,
                                 const int *step, int *chosen, float *gates, int *record,
                                 int stride, int per_token, int groups, int groups_per_token,
                                 int best_of_group, int scoring, int normalise, float factor) {
    take_turn();
    const int row = blockIdx.x, lane = threadIdx.x;
    if (row >= *live)
        return;
    float own[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++)
        own[i] = i * 32 + lane < EXPERTS ? logits[(i64)row * EXPERTS + i * 32 + lane] : -INFINITY;
    score(own, scoring, lane);
    __shared__ float scores[EXPERTS], choice[EXPERTS];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int e = i * 32 + lane;
        if (e >= EXPERTS)
            continue;
        scores[e] = own[i];
        own[i] += bias ? bias[e] : 0.0f;
        // NaN is chosen, as by libtorch, so that weights that have diverged are noticed.
        own[i] = own[i] == own[i] ? own[i] : INFINITY;
        choice[e] = own[i];
    }
    __syncwarp();
    u32 kept = 0xffffffffu;
    if (groups_per_token < groups)
        kept = kept_groups(choice, groups, groups_per_token, best_of_group, lane);
    const int size = groups_per_token < groups ? EXPERTS / groups : EXPERTS;
    u32 taken = 0;
    int expert = 0;
    float gate = 0.0f, sum = 0.0f;
    for (int k = 0; k < per_token; k++) {
        Candidate best = {-INFINITY, EXPERTS};
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int e = i * 32 + lane;
            if (e < EXPERTS && !(taken >> i & 1))
                best = better({kept >> e / size & 1 ? own[i] : -INFINITY, e}, best);
        }
        best = best_of_warp(best);
        if (best.at % 32 == lane)
            taken |= 1u << best.at / 32;
        sum += scores[best.at];
        if (k == lane) {
            expert = best.at;
            gate = scores[best.at];
        }
    }
    if (lane >= per_token)
        return;
    chosen[row * per_token + lane] = expert;
    gates[row * per_token + lane] = (normalise ? gate / (sum + NORMALISATION_EPSILON) : gate) * factor;
    if (record)
        record[((i64)*step * gridDim.x + row) * stride + lane] = expert;
}

// Sorts (token, expert) pairs by their experts, and within an expert by token: chosen [B, K] →
// order [B · K], the numbers token · K + slot of the pairs that live, and starts [EXPERTS + 1],
// where each expert's begin. One block.
extern "C" __global__ void sort_by_expert(const int *chosen, const int *live, int *order,
                                          int *starts, int per_token) {
    take_turn();
    __shared__ int counts[EACH * 32], begins[EACH * 32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pairs = *live * per_token;
    for (int e = threadIdx.x; e < EACH * 32; e += blockDim.x)
        counts[e] = 0;
    __syncthreads();
    for (int pair = threadIdx.x; pair < pairs; pair += blockDim.x)
        atomicAdd(&counts[chosen[pair]], 1);
    __syncthreads();
    if (warp == 0) {
        int before = 0;
        for (int i = 0; i < EACH; i++) {
            int end = counts[i * 32 + lane];
#pragma unroll
            for (int distance = 1; distance < 32; distance *= 2) {
                const int other = __shfl_up_sync(0xffffffffu, end, distance);
                end += lane >= distance ? other : 0;
            }
            end += before;
            begins[i * 32 + lane] = end - counts[i * 32 + lane];
            if (i * 32 + lane < EXPERTS)
                starts[i * 32 + lane + 1] = end;
            before = __shfl_sync(0xffffffffu, end, 31);
        }
        if (lane == 0)
            starts[0] = 0;
    }
    __syncthreads();
    for (int e = warp; e < EXPERTS; e += blockDim.x / 32) {
        if (counts[e] == 0)
            continue;
        int to = begins[e];
        for (int first = 0; first < pairs; first += 32) {
            const int pair = first + lane;
            const bool is_of = pair < pairs && chosen[pair] == e;
            const u32 which = __ballot_sync(0xffffffffu, is_of);
            if (is_of)
                order[to + __popc(which & ((1u << lane) - 1))] = pair;
            to += __popc(which);
        }
    }
}

// hidden += Σ_k gates[k] · outputs[k] + shared, rounded where libtorch rounds: outputs [B, K,
// width], gates [B, K], shared [B, width] or null, hidden [B, width]. A block takes a row; rows
// from `live` on do nothing.
extern "C" __global__ void combine(const Number *outputs, const float *gates, const Number *shared,
                                   const int *live, Number *hidden, int per_token, int width) {
    take_turn();
    const i64 row = blockIdx.x;
    if (row >= *live)
        return;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        float sum[8], values[8];
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum[j] = 0.0f;
        for (int k = 0; k < per_token; k++) {
            const float gate = wide(narrow(gates[row * per_token + k]));
            load(outputs + (row * per_token + k) * width + i, values);
#pragma unroll
            for (int j = 0; j < 8; j++)
                sum[j] += gate * values[j];
        }
        if (shared) {
            load(shared + row * width + i, values);
#pragma unroll
            for (int j = 0; j < 8; j++)
                sum[j] = wide(narrow(sum[j])) + values[j];
        }
        load(hidden + row * width + i, values);
#pragma unroll
        for (int j = 0; j < 8; j++)
            values[j] += wide(narrow(sum[j]));
        store(values, hidden + row * width + i);
    }
}
