// Draws one id per row from logits and one uniform per row, and what is recorded of it.

#define THREADS 1024
#define WARPS (THREADS / 32)
// Most ids of a row: of a warp's range each thread of the block reads eight.
#define VOCAB_MAX (WARPS * THREADS * 8)
// Pieces of eight logits that a lane reads before it computes with them.
#define AHEAD 4
// Less than any finite logit, more than minus infinity: differences stay numbers.
#define LOWEST -3.4028235e38f

// What is drawn from: the eight logits of a piece, minus infinity behind the last id.
struct Row {
    const Number *logits;
    int vocab;

    __device__ __forceinline__ void piece(int at, float (&x)[8]) const {
        read(logits, at * 8, vocab, x);
    }
};

// A part of a row: its largest logit, the first id that has it, and the sum of exp((x - top) /
// temperature).
struct Part {
    float top;
    int first;
    float mass;
};

// Reads pieces `from`, from + 32, … below `end`; `unit` is log2(e) / temperature.
__device__ __forceinline__ Part sum_up(const Row &row, int from, int end, float unit) {
    Part part = {LOWEST, row.vocab, 0.0f};
    for (int base = from; base < end; base += 32 * AHEAD) {
        float x[AHEAD][8];
#pragma unroll
        for (int a = 0; a < AHEAD; a++)
            row.piece(base + 32 * a < end ? base + 32 * a : VOCAB_MAX, x[a]);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float top = x[a][0];
#pragma unroll
            for (int i = 1; i < 8; i++)
                top = fmaxf(top, x[a][i]);
            if (top > part.top) {
                part.mass *= exp2_fast((part.top - top) * unit);
                part.top = top;
#pragma unroll
                for (int i = 7; i >= 0; i--)
                    part.first = x[a][i] == top ? (base + 32 * a) * 8 + i : part.first;
            }
#pragma unroll
            for (int i = 0; i < 8; i++)
                part.mass += exp2_fast((x[a][i] - part.top) * unit);
        }
    }
    return part;
}

// The largest of a warp's tops, and the first id that has it.
__device__ __forceinline__ void first_top(float &top, int &first) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, top, distance);
        const int where = __shfl_xor_sync(0xffffffffu, first, distance);
        if (other > top || (other == top && where < first)) {
            top = other;
            first = where;
        }
    }
}

// The sum of a warp's values up to and with the lane's own.
__device__ __forceinline__ double sum_before(double value, int lane) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const double other = __shfl_up_sync(0xffffffffu, value, distance);
        if (lane >= distance)
            value += other;
    }
    return value;
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
//
// Each warp sums up a range of the vocabulary. The range that is drawn from is read once more, by
// the whole block.
extern "C" __global__ void __launch_bounds__(THREADS)
    draw(const Number *logits, const float *uniforms, const int *step, const int *live,
         int *last_id, int *position, int *ids, float *logprobs, const float *limits,
         unsigned char *kept, int kept_bytes, int vocab, int rows, float temperature) {
    take_turn();
    const int row = blockIdx.x;
    if (row >= *live)
        return;
    const Row from = {logits + (i64)row * vocab, vocab};
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, at = *step;
    const i64 record = (i64)at * rows + row;
    const float inverse = temperature > 0.0f ? 1.0f / temperature : 1.0f;
    const float unit = inverse * 1.4426950408889634f;
    const int pieces = (vocab + 7) / 8, of_warp = (pieces + WARPS - 1) / WARPS;
    const int start = warp * of_warp, end = min(pieces, start + of_warp);

    // The largest logit of each range, where it is first, and the range's mass.
    __shared__ float tops[WARPS], masses[WARPS];
    __shared__ int firsts[WARPS];
    const Part own = sum_up(from, start + lane, end, unit);
    float top = own.top;
    int first = own.first;
    first_top(top, first);
    float mass = warp_sum(own.mass * exp2_fast((own.top - top) * unit));
    if (lane == 0) {
        tops[warp] = top;
        firsts[warp] = first;
        masses[warp] = mass;
    }
    __syncthreads();
    // From here on a warp's lanes stand for the ranges, in all warps alike.
    const float top_of_range = tops[lane];
    top = top_of_range;
    first = firsts[lane];
    first_top(top, first);
    double range = (double)masses[lane] * (double)exp2_fast((top_of_range - top) * unit);
    double reached = sum_before(range, lane);
    const double all_mass = __shfl_sync(0xffffffffu, reached, 31);

    // The masses of what is left, with which ids that are.
    const float limit = limits ? limits[row] : INFINITY;
    if (limits) {
        __shared__ float left[WARPS];
        float rest = 0.0f;
        for (int piece = start + lane; piece < end; piece += 32) {
            float x[8];
            from.piece(piece, x);
            u32 bits = 0;
#pragma unroll
            for (int i = 0; i < 8; i++)
                if ((top - x[i]) * inverse <= limit && x[i] > -INFINITY) {
                    bits |= 1u << i;
                    rest += exp2_fast((x[i] - top) * unit);
                }
            if (kept)
                kept[record * kept_bytes + piece] = (unsigned char)bits;
        }
        if (kept && pieces + (int)threadIdx.x < kept_bytes)
            kept[record * kept_bytes + pieces + threadIdx.x] = 0;
        rest = warp_sum(rest);
        if (lane == 0)
            left[warp] = rest;
        __syncthreads();
        range = (double)left[lane];
        reached = sum_before(range, lane);
    }

    // The range where the target is reached; the last that has mass, if rounding hides it.
    const double total = __shfl_sync(0xffffffffu, reached, 31);
    const double target = total * (double)uniforms[record];
    const u32 beyond = __ballot_sync(0xffffffffu, reached > target);
    const u32 with_mass = __ballot_sync(0xffffffffu, range > 0.0);
    const int chosen = beyond ? __ffs(beyond) - 1 : with_mass ? 31 - __clz(with_mass) : 0;
    const double span = __shfl_sync(0xffffffffu, range, chosen);
    const double rest = target - (__shfl_sync(0xffffffffu, reached, chosen) - span);

    // Inside the range each thread has eight neighbours.
    __shared__ double inside[WARPS];
    __shared__ int found, last;
    const int piece = chosen * of_warp + threadIdx.x;
    double cumulative[8], sum = 0.0;
    int last_with_mass = -1;
    float x[8];
    from.piece(threadIdx.x < of_warp && piece < pieces ? piece : VOCAB_MAX, x);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float p =
            (top - x[i]) * inverse <= limit ? exp2_fast((x[i] - top) * unit) : 0.0f;
        if (p > 0.0f)
            last_with_mass = piece * 8 + i;
        sum += (double)p;
        cumulative[i] = sum;
    }
    double before = sum_before(sum, lane);
    if (lane == 31)
        inside[warp] = before;
    if (threadIdx.x == 0) {
        found = vocab;
        last = -1;
    }
    before -= sum;
    __syncthreads();
    const double of_warps = inside[lane];
    const double up_to = sum_before(of_warps, lane);
    before += __shfl_sync(0xffffffffu, up_to - of_warps, warp);
    // The range's mass in the row's sum differs from this one by rounding: the rest of the target
    // is rescaled to it.
    const double goal =
        span > 0.0 ? rest / span * __shfl_sync(0xffffffffu, up_to, 31) : 0.0;
    int nearest = vocab;
#pragma unroll
    for (int i = 7; i >= 0; i--)
        if (before + cumulative[i] > goal)
            nearest = piece * 8 + i;
    nearest = __reduce_min_sync(0xffffffffu, nearest);
    last_with_mass = __reduce_max_sync(0xffffffffu, last_with_mass);
    if (lane == 0) {
        atomicMin(&found, nearest);
        atomicMax(&last, last_with_mass);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        const int drawn = found < vocab ? found : last;
        const int id = min(max(temperature > 0.0f ? drawn : first, 0), vocab - 1);
        // NaN anywhere is in the mass of all.
        const double among = kept ? total + 0.0 * all_mass : all_mass;
        last_id[row] = id;
        position[row] += 1;
        ids[record] = id;
        logprobs[record] = (wide(from.logits[id]) - top) * inverse - logf((float)among);
    }
}
