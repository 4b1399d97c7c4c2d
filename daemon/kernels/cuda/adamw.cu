// AdamW (Loshchilov & Hutter 2019, algorithm 2) in one pass over a parameter's memory, and the
// square sum of a gradient. Gradients and moments are float32 or this file's dtype, as `narrow`
// says; what is computed of them is float32.

#define NARROW_GRADIENT 1
#define NARROW_FIRST 2
#define NARROW_SECOND 4

// Eight neighbouring numbers, or as many as there are up to `count`; `whole`: addresses are
// multiples of 16.
__device__ __forceinline__ void read_some(const void *from, bool narrow, i64 at, i64 count,
                                          bool whole, float (&x)[8]) {
    if (whole && at + 8 <= count) {
        if (narrow) {
            load((const Number *)from + at, x);
            return;
        }
        const float4 *fours = (const float4 *)((const float *)from + at);
        const float4 a = fours[0], b = fours[1];
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
        x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        x[j] = at + j >= count ? 0.0f
               : narrow        ? wide(((const Number *)from)[at + j])
                               : ((const float *)from)[at + j];
}

__device__ __forceinline__ void write_some(const float (&x)[8], void *to, bool narrowed, i64 at,
                                           i64 count, bool whole) {
    if (whole && at + 8 <= count) {
        if (narrowed) {
            store(x, (Number *)to + at);
            return;
        }
        float4 *fours = (float4 *)((float *)to + at);
        fours[0] = {x[0], x[1], x[2], x[3]};
        fours[1] = {x[4], x[5], x[6], x[7]};
        return;
    }
#pragma unroll
    for (int j = 0; j < 8; j++) {
        if (at + j >= count)
            continue;
        if (narrowed)
            ((Number *)to)[at + j] = narrow(x[j]);
        else
            ((float *)to)[at + j] = x[j];
    }
}

// One step on `count` weights, float32: g = gradient / gradient_scale (null: 1); m and v are the
// moments `first` and `second`; `published`, if there is one, takes the weights in this file's
// dtype. `steps` is t, which counts this step. Where found_inf is 1, nothing changes. A thread has
// eight weights at a time.
extern "C" __global__ void adamw(float *weights, const void *gradient, void *first, void *second,
                                 Number *published, const float *steps,
                                 const float *gradient_scale, const float *found_inf, i64 count,
                                 int narrow, int whole, double learning_rate, double weight_decay,
                                 double beta1, double beta2, double epsilon) {
    if (*found_inf != 0.0f)
        return;
    // What all threads need: lr / (1 - β₁ᵗ), 1 / √(1 - β₂ᵗ), 1 / gradient_scale.
    __shared__ float factors[3];
    if (threadIdx.x == 0) {
        factors[0] = (float)(learning_rate / (1.0 - pow(beta1, (double)*steps)));
        factors[1] = (float)(1.0 / sqrt(1.0 - pow(beta2, (double)*steps)));
        factors[2] = gradient_scale ? (float)(1.0 / (double)*gradient_scale) : 1.0f;
    }
    __syncthreads();
    const float step = factors[0], root = factors[1], scale = factors[2];
    const float keep1 = (float)beta1, take1 = (float)(1.0 - beta1);
    const float keep2 = (float)beta2, take2 = (float)(1.0 - beta2);
    const float decay = (float)(learning_rate * weight_decay), least = (float)epsilon;
    const i64 stride = (i64)gridDim.x * blockDim.x * 8;
    for (i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8; at < count; at += stride) {
        float w[8], g[8], m[8], v[8];
        read_some(gradient, narrow & NARROW_GRADIENT, at, count, whole, g);
        read_some(first, narrow & NARROW_FIRST, at, count, whole, m);
        read_some(second, narrow & NARROW_SECOND, at, count, whole, v);
        read_some(weights, false, at, count, whole, w);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            g[j] *= scale;
            m[j] = keep1 * m[j] + take1 * g[j];
            v[j] = keep2 * v[j] + take2 * g[j] * g[j];
            w[j] -= decay * w[j];
            w[j] -= step * m[j] / (sqrtf(v[j]) * root + least);
        }
        write_some(m, first, narrow & NARROW_FIRST, at, count, whole);
        write_some(v, second, narrow & NARROW_SECOND, at, count, whole);
        write_some(w, weights, false, at, count, whole);
        if (published)
            write_some(w, published, true, at, count, whole);
    }
}

// parts [blocks]: the sums of a gradient's squares, float64, each over a block's numbers.
extern "C" __global__ void square_sums(const void *gradient, double *parts, i64 count, int narrow,
                                       int whole) {
    __shared__ double sums[1024];
    const i64 stride = (i64)gridDim.x * blockDim.x * 8;
    double total = 0.0;
    for (i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 8; at < count; at += stride) {
        float g[8];
        read_some(gradient, narrow & NARROW_GRADIENT, at, count, whole, g);
#pragma unroll
        for (int j = 0; j < 8; j++)
            total += (double)g[j] * (double)g[j];
    }
    sums[threadIdx.x] = total;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half)
            sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sums[0];
}
