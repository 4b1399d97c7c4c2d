// Log-probabilities of given ids over a chunk's logits, and the logits' gradient in their place:
// each pass reads a logit once. Exponents are of 2, and sums float32.

// Below all exponents, and finite, so that its distance from minus infinity is not NaN.
#define LOWEST -1e38f

// A part of a softmax: its largest exponent, the first id that has it, Σ 2^u and Σ 2^u u over the
// distances u of the other exponents from the largest.
struct Mass {
    float largest;
    int id;
    float sum, weighted;
};

// The mass with all its distances taken from `largest`, which is no smaller than its own.
__device__ __forceinline__ Mass moved(Mass mass, float largest) {
    const float distance = mass.largest - largest, factor = exp2_fast(distance);
    // Where the factor is 0 the distance may be so large that a product is not finite.
    const float shift = factor > 0.0f ? factor * distance : 0.0f;
    return {largest, mass.id, mass.sum * factor, mass.weighted * factor + mass.sum * shift};
}

__device__ __forceinline__ Mass joined(Mass a, Mass b) {
    const float largest = fmaxf(a.largest, b.largest);
    const bool of_b = b.largest > a.largest || (b.largest == a.largest && b.id < a.id);
    const int id = of_b ? b.id : a.id;
    const Mass x = moved(a, largest), y = moved(b, largest);
    return {largest, id, x.sum + y.sum, x.weighted + y.weighted};
}

__device__ __forceinline__ Mass joined_warp(Mass mass) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const Mass other = {__shfl_xor_sync(0xffffffffu, mass.largest, distance),
                            __shfl_xor_sync(0xffffffffu, mass.id, distance),
                            __shfl_xor_sync(0xffffffffu, mass.sum, distance),
                            __shfl_xor_sync(0xffffffffu, mass.weighted, distance)};
        // Both lanes of a pair join in the same order, and have the same bits.
        mass = threadIdx.x & distance ? joined(other, mass) : joined(mass, other);
    }
    return mass;
}

// Eight exponents from `id` on: logits · factor, minus infinity for ids that are not kept.
__device__ __forceinline__ void exponents(const Number *logits, const unsigned char *kept, int id,
                                          int vocab, float factor, float (&x)[8]) {
    read(logits, id, vocab, x);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const bool out = kept && id + j < vocab && !kept[id + j];
        x[j] = out ? -INFINITY : x[j] * factor;
    }
}

// Of each row of logits [n, vocab]: logp of its target under softmax(logits / temperature) over the
// kept ids ([n, vocab] bytes; null: all), the normaliser's log2, the entropy in nats, and the
// likeliest id (the first of several). factor = log2(e) / temperature. A block of 1024 threads has
// a row.
extern "C" __global__ void logprobs(const Number *logits, const i64 *targets,
                                    const unsigned char *kept, float *logp, float *normaliser,
                                    float *entropy, i64 *likeliest, int vocab, float factor) {
    const i64 row = blockIdx.x;
    logits += row * vocab;
    if (kept)
        kept += row * vocab;
    Mass mass = {LOWEST, vocab, 0.0f, 0.0f};
    for (int id = threadIdx.x * 8; id < vocab; id += blockDim.x * 8) {
        float x[8];
        exponents(logits, kept, id, vocab, factor, x);
        float largest = x[0];
#pragma unroll
        for (int j = 1; j < 8; j++)
            largest = fmaxf(largest, x[j]);
        if (largest > mass.largest) {
            mass = moved(mass, largest);
#pragma unroll
            for (int j = 7; j >= 0; j--)
                if (x[j] == largest)
                    mass.id = id + j;
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            // Further down 2^u is 0, and 0 times minus infinity no number. A NaN stays one.
            float u = x[j] - mass.largest;
            u = u < -150.0f ? -150.0f : u;
            const float e = exp2_fast(u);
            mass.sum += e;
            mass.weighted += e * u;
        }
    }
    __shared__ Mass masses[32];
    mass = joined_warp(mass);
    if (threadIdx.x % 32 == 0)
        masses[threadIdx.x / 32] = mass;
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
    const Mass none = {LOWEST, vocab, 0.0f, 0.0f};
    mass = joined_warp(threadIdx.x < blockDim.x / 32 ? masses[threadIdx.x] : none);
    if (threadIdx.x == 0) {
        const float ln2 = 0.693147182464599609375f;
        const int target = (int)targets[row];
        const bool out = kept && !kept[target];
        const float x = out ? -INFINITY : wide(logits[target]) * factor;
        const float log_sum = log2f(mass.sum);
        logp[row] = ln2 * (x - mass.largest - log_sum);
        normaliser[row] = mass.largest + log_sum;
        entropy[row] = ln2 * (log_sum - mass.weighted / mass.sum);
        likeliest[row] = mass.id;
    }
}

// logits ← slope / temperature · ([id = target] − p): the gradient of Σ slope · logp, by the
// normalisers of `logprobs`; slope [n], inverse_temperature = 1 / temperature. A block has a part
// of a row.
extern "C" __global__ void logits_gradient(Number *logits, const i64 *targets,
                                           const unsigned char *kept, const float *normaliser,
                                           const float *slope, int vocab, float factor,
                                           float inverse_temperature) {
    const i64 row = blockIdx.x;
    logits += row * vocab;
    if (kept)
        kept += row * vocab;
    const float log_sum = normaliser[row], step = slope[row] * inverse_temperature;
    const int target = (int)targets[row];
    const int stride = gridDim.y * blockDim.x * 8;
    for (int id = (blockIdx.y * blockDim.x + threadIdx.x) * 8; id < vocab; id += stride) {
        float x[8] = {};
        if (step != 0.0f) {
            exponents(logits, kept, id, vocab, factor, x);
#pragma unroll
            for (int j = 0; j < 8; j++)
                x[j] = step * ((id + j == target ? 1.0f : 0.0f) - exp2_fast(x[j] - log_sum));
        }
        if (vocab % 8 == 0) {
            store(x, logits + id);
            continue;
        }
        for (int j = 0; j < 8 && id + j < vocab; j++)
            logits[id + j] = narrow(x[j]);
    }
}
