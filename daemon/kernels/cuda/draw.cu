// Draws one id per row from logits and one uniform per row, and what is recorded of it.

// Ids that a warp sums at once, and threads of a block.
#define SEGMENT 256
#define THREADS 1024
// Most segments of a row: vocabularies of up to 524,288 ids.
#define SEGMENTS_MAX 2048

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

// exp((x - top) / temperature); 0 for minus infinity, also where all are.
__device__ __forceinline__ float share(float x, float top, float inverse) {
    return x == -INFINITY ? 0.0f : expf((x - top) * inverse);
}

// Draws by inverse CDF, as the sampler's `draw` module does: the first id in vocabulary order whose
// cumulative mass under softmax(logits / temperature) is greater than u · total; temperature 0
// takes the first id of the largest logit, and its log-probability is that of temperature 1.
//
// logits [B, vocab], uniforms float32 [steps, rows], of which row *step is taken → last_id [B],
// position [B] + 1, and row *step of ids [steps, rows] and logprobs [steps, rows]. A row whose
// logits are not finite gets some id and the log-probability NaN. One block takes one row; rows
// from `live` on do nothing.
extern "C" __global__ void __launch_bounds__(THREADS)
    draw(const Number *logits, const float *uniforms, const int *step, const int *live,
         int *last_id, int *position, int *ids, float *logprobs, int vocab, int rows,
         float temperature) {
    take_turn();
    const int row = blockIdx.x;
    if (row >= *live)
        return;
    const Number *from = logits + (i64)row * vocab;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int segments = (vocab + SEGMENT - 1) / SEGMENT;
    const float inverse = temperature > 0.0f ? 1.0f / temperature : 1.0f;
    // Largest logit of each segment and where it is first; then mass up to and with the segment.
    __shared__ float tops[SEGMENTS_MAX], masses[SEGMENTS_MAX];
    __shared__ int firsts[SEGMENTS_MAX];
    __shared__ double reached[SEGMENTS_MAX];
    for (int s = warp; s < segments; s += THREADS / 32) {
        float x[8];
        read(from, s * SEGMENT + lane * 8, vocab, x);
        float top = -INFINITY;
        int first = vocab;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int id = s * SEGMENT + lane * 8 + i;
            if (x[i] > top) {
                top = x[i];
                first = id;
            }
        }
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, top, distance);
            const int where = __shfl_xor_sync(0xffffffffu, first, distance);
            if (other > top || (other == top && where < first)) {
                top = other;
                first = where;
            }
        }
        float mass = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++)
            mass += share(x[i], top, inverse);
        mass = warp_sum(mass);
        if (lane == 0) {
            tops[s] = top;
            firsts[s] = first;
            masses[s] = mass;
        }
    }
    __syncthreads();
    // The first largest logit of the row.
    __shared__ float warp_top[THREADS / 32];
    __shared__ int warp_first[THREADS / 32];
    float top = -INFINITY;
    int first = vocab;
    for (int s = threadIdx.x; s < segments; s += THREADS)
        if (tops[s] > top) {
            top = tops[s];
            first = firsts[s];
        }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, top, distance);
        const int where = __shfl_xor_sync(0xffffffffu, first, distance);
        if (other > top || (other == top && where < first)) {
            top = other;
            first = where;
        }
    }
    if (lane == 0) {
        warp_top[warp] = top;
        warp_first[warp] = first;
    }
    __syncthreads();
    top = warp_top[0];
    first = warp_first[0];
    for (int w = 1; w < THREADS / 32; w++)
        if (warp_top[w] > top || (warp_top[w] == top && warp_first[w] < first)) {
            top = warp_top[w];
            first = warp_first[w];
        }
    // Cumulative masses of the segments, summed in order by one warp in float64.
    if (warp == 0) {
        double before = 0.0;
        for (int base = 0; base < segments; base += 32) {
            const int s = base + lane;
            double mass =
                s < segments ? (double)masses[s] * (double)share(tops[s], top, inverse) : 0.0;
#pragma unroll
            for (int distance = 1; distance < 32; distance *= 2) {
                const double other = __shfl_up_sync(0xffffffffu, mass, distance);
                if (lane >= distance)
                    mass += other;
            }
            if (s < segments)
                reached[s] = before + mass;
            before += __shfl_sync(0xffffffffu, mass, 31);
        }
    }
    __shared__ int chosen;
    if (threadIdx.x == 0)
        chosen = segments - 1;
    __syncthreads();
    const double total = reached[segments - 1];
    const int at = *step;
    const double target = total * (double)uniforms[(i64)at * rows + row];
    for (int s = threadIdx.x; s < segments; s += THREADS)
        if (reached[s] > target && (s == 0 || !(reached[s - 1] > target)))
            chosen = s;
    __syncthreads();
    if (warp != 0)
        return;
    // Inside the segment each lane has eight neighbours.
    int id = first;
    if (temperature > 0.0f) {
        const int segment = chosen;
        float x[8];
        read(from, segment * SEGMENT + lane * 8, vocab, x);
        double mass[8], own = 0.0;
        int last_with_mass = -1;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float p = share(x[i], top, inverse);
            if (p > 0.0f)
                last_with_mass = segment * SEGMENT + lane * 8 + i;
            own += (double)p;
            mass[i] = own;
        }
        double before = own;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const double other = __shfl_up_sync(0xffffffffu, before, distance);
            if (lane >= distance)
                before += other;
        }
        const double inside = __shfl_sync(0xffffffffu, before, 31);
        before -= own;
        // The segment's mass in the row's sum differs from this one by rounding: the rest of the
        // target is rescaled to it.
        const double start = segment == 0 ? 0.0 : reached[segment - 1];
        const double span = reached[segment] - start;
        const double rest = span > 0.0 ? (target - start) / span * inside : 0.0;
        int found = vocab;
#pragma unroll
        for (int i = 7; i >= 0; i--)
            if (before + mass[i] > rest)
                found = segment * SEGMENT + lane * 8 + i;
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) {
            found = min(found, __shfl_xor_sync(0xffffffffu, found, distance));
            last_with_mass =
                max(last_with_mass, __shfl_xor_sync(0xffffffffu, last_with_mass, distance));
        }
        id = found < vocab ? found : last_with_mass;
    }
    if (lane == 0) {
        id = min(max(id, 0), vocab - 1);
        const float logprob = (wide(from[id]) - top) * inverse - logf((float)total);
        last_id[row] = id;
        position[row] += 1;
        ids[(i64)at * rows + row] = id;
        logprobs[(i64)at * rows + row] = logprob;
    }
}

// step += 1, behind the last kernel of a step.
extern "C" __global__ void advance(int *step) {
    take_turn();
    *step += 1;
}
