// Draws one id per row from logits and one uniform per row, and what is recorded of it.

// Ids that a warp sums at once, and threads of a block.
#define SEGMENT 256
#define THREADS 1024
// Most segments of a row: vocabularies of up to 262,144 ids.
#define SEGMENTS_MAX 1024

// exp((x - top) / temperature); 0 for minus infinity, also where all are.
__device__ __forceinline__ float share(float x, float top, float inverse) {
    return x == -INFINITY ? 0.0f : expf((x - top) * inverse);
}

// Draws by inverse CDF, as the sampler's `draw` module does: the first id in vocabulary order whose
// cumulative mass under softmax(logits / temperature) is greater than u · total; temperature 0
// takes the first id of the largest logit, and its log-probability is that of temperature 1.
//
// logits [B, vocab], uniforms float32 [steps, rows], of which row *step is taken → last_id [B],
// position [B] + 1, and row *step of ids [steps, rows] and logprobs [steps, rows]. Where limits [B]
// is not null, only ids whose distance (top - logit) / temperature is within a row's limit are
// drawn; where kept [steps, rows, kept_bytes] is not null, the bits of these go to its row *step,
// and the log-probability is among these. A row whose logits are not finite gets some id and the
// log-probability NaN. One block takes one row; rows from `live` on do nothing.
extern "C" __global__ void __launch_bounds__(THREADS)
    draw(const Number *logits, const float *uniforms, const int *step, const int *live,
         int *last_id, int *position, int *ids, float *logprobs, const float *limits,
         unsigned char *kept, int kept_bytes, int vocab, int rows, float temperature) {
    take_turn();
    const int row = blockIdx.x;
    if (row >= *live)
        return;
    const Number *from = logits + (i64)row * vocab;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int segments = (vocab + SEGMENT - 1) / SEGMENT;
    const float inverse = temperature > 0.0f ? 1.0f / temperature : 1.0f;
    // Largest logit of each segment, where it is first, and the segment's mass; then the mass that
    // can be drawn, up to and with the segment.
    __shared__ float tops[SEGMENTS_MAX], masses[SEGMENTS_MAX];
    __shared__ int firsts[SEGMENTS_MAX];
    __shared__ double reached[SEGMENTS_MAX];
    const int at = *step;
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
    // The mass of all ids, for the log-probability.
    __shared__ double all_mass;
    if (warp == 0) {
        double all = 0.0;
        for (int s = lane; s < segments; s += 32)
            all += (double)masses[s] * (double)share(tops[s], top, inverse);
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2)
            all += __shfl_xor_sync(0xffffffffu, all, distance);
        if (lane == 0)
            all_mass = all;
    }
    __syncthreads();
    // The masses of what is left, with which ids that are.
    const float limit = limits ? limits[row] : INFINITY;
    if (limits)
        for (int s = warp; s < segments; s += THREADS / 32) {
            float x[8];
            read(from, s * SEGMENT + lane * 8, vocab, x);
            float mass = 0.0f;
            u32 bits = 0;
#pragma unroll
            for (int i = 0; i < 8; i++)
                if ((top - x[i]) * inverse <= limit && x[i] > -INFINITY) {
                    bits |= 1u << i;
                    mass += share(x[i], top, inverse);
                }
            mass = warp_sum(mass);
            if (lane == 0) {
                masses[s] = mass;
                tops[s] = top;
            }
            if (kept && s * 32 + lane < kept_bytes)
                kept[((i64)at * rows + row) * kept_bytes + s * 32 + lane] = (unsigned char)bits;
        }
    __syncthreads();
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
            const float p =
                (top - x[i]) * inverse <= limit ? share(x[i], top, inverse) : 0.0f;
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
        // NaN anywhere is in the mass of all.
        const double among = kept ? total + 0.0 * all_mass : all_mass;
        const float logprob = (wide(from[id]) - top) * inverse - logf((float)among);
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
