// The parts of a decoder layer between its matrix products, forward and backward, for all tokens of
// a training pass. What is summed over tokens is summed in an order that depends on sizes alone.

// The sum over the block's threads, whole warps.
__device__ __forceinline__ float block_sum(float x, float *sums) {
    x = warp_sum(x);
    // The sums of the last call have been read.
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp < blockDim.x / 32; warp++)
        total += sums[warp];
    return total;
}

// sum = x + more, y = w sum · scale, scale = 1 / sqrt(mean(sum²) + epsilon): x, more, sum, y
// [T, width], w [width], scale [T]. Without `more` the sum is x and is not written. A block has a
// row, a thread eight numbers of it.
extern "C" __global__ void add_rms_norm(const Number *x, const Number *more, const Number *w,
                                        Number *sum, Number *y, float *scale, int width,
                                        float epsilon) {
    __shared__ float sums[32];
    const int i = threadIdx.x * 8;
    const i64 at = (i64)blockIdx.x * width + i;
    float values[8] = {}, square = 0.0f;
    if (i < width) {
        load(x + at, values);
        if (more) {
            float added[8];
            load(more + at, added);
#pragma unroll
            for (int j = 0; j < 8; j++)
                values[j] = wide(narrow(values[j] + added[j]));
            store(values, sum + at);
        }
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        square += values[j] * values[j];
    const float factor = rsqrtf(block_sum(square, sums) / (float)width + epsilon);
    if (threadIdx.x == 0)
        scale[blockIdx.x] = factor;
    if (i < width) {
        float weights[8];
        load(w + i, weights);
#pragma unroll
        for (int j = 0; j < 8; j++)
            values[j] *= factor * weights[j];
        store(values, y + at);
    }
}

// The gradients of add_rms_norm: dy, dsum (null: 0), sum, dx [rows, width] → dx, which is that of x
// and of `more`, and each block's part of w's, parts [blocks, width].
extern "C" __global__ void rms_norm_backward(const Number *dy, const Number *dsum,
                                             const Number *sum, const Number *w,
                                             const float *scale, Number *dx, float *parts,
                                             int rows, int width) {
    __shared__ float sums[32];
    const int i = threadIdx.x * 8;
    float weights[8] = {}, part[8] = {};
    if (i < width)
        load(w + i, weights);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const i64 at = (i64)row * width + i;
        const float factor = scale[row];
        float slope[8] = {}, normed[8] = {}, further[8] = {}, dot = 0.0f;
        if (i < width) {
            load(dy + at, slope);
            load(sum + at, normed);
            if (dsum)
                load(dsum + at, further);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            normed[j] *= factor;
            part[j] += slope[j] * normed[j];
            slope[j] *= weights[j];
            dot += slope[j] * normed[j];
        }
        const float mean = block_sum(dot, sums) / (float)width;
        if (i < width) {
#pragma unroll
            for (int j = 0; j < 8; j++)
                further[j] += factor * (slope[j] - normed[j] * mean);
            store(further, dx + at);
        }
    }
    if (i < width) {
        float *to = parts + (i64)blockIdx.x * width + i;
#pragma unroll
        for (int j = 0; j < 8; j++)
            to[j] = part[j];
    }
}

// out = Σ parts: parts [count, width], out [width]. A block of 1024 threads has 32 columns.
extern "C" __global__ void sum_parts(const float *parts, Number *out, int count, int width) {
    __shared__ float sums[32][33];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < width)
        for (int part = warp; part < count; part += 32)
            sum += parts[(i64)part * width + column];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < width) {
        float total = 0.0f;
        for (int of = 0; of < 32; of++)
            total += sums[of][lane];
        out[column] = narrow(total);
    }
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// y = silu(gate) · up: gate_up [T, 2 · width], gate before up, y [T, width]; a thread has eight
// numbers of y.
extern "C" __global__ void silu_mul_rows(const Number *gate_up, Number *y, int rows, int width) {
    const int eights = width / 8, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * eights)
        return;
    const int row = index / eights, i = index % eights * 8;
    const Number *from = gate_up + (i64)row * 2 * width + i;
    float gate[8], up[8];
    load(from, gate);
    load(from + width, up);
#pragma unroll
    for (int j = 0; j < 8; j++)
        // Rounded between the two operations, as libtorch's silu and product are.
        gate[j] = wide(narrow(gate[j] * sigmoid(gate[j]))) * up[j];
    store(gate, y + (i64)row * width + i);
}

// The gradients of silu_mul_rows, in the place of its operands: dy [T, width] → gate_up.
extern "C" __global__ void silu_mul_backward(const Number *dy, Number *gate_up, int rows,
                                             int width) {
    const int eights = width / 8, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * eights)
        return;
    const int row = index / eights, i = index % eights * 8;
    Number *at = gate_up + (i64)row * 2 * width + i;
    float slope[8], gate[8], up[8];
    load(dy + (i64)row * width + i, slope);
    load(at, gate);
    load(at + width, up);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float s = sigmoid(gate[j]);
        const float silu = wide(narrow(gate[j] * s));
        gate[j] = slope[j] * up[j] * s * (1.0f + gate[j] * (1.0f - s));
        up[j] = slope[j] * silu;
    }
    store(gate, at);
    store(up, at + width);
}

// Eight numbers of the first half of a head's dimensions and their partners in the second, turned
// by the token's angles; backward by their negatives. The table has float32 [2, head_dim] of each
// token: cosines, and sines with the sign that the swapped half needs.
__device__ __forceinline__ void turn(float (&first)[8], float (&second)[8], const float *table,
                                     int i, int head_dim, bool back) {
    const float *cosines = table + i, *sines = table + head_dim + head_dim / 2 + i;
#pragma unroll
    for (int j = 0; j < 8; j++) {
        const float cosine = cosines[j], sine = back ? -sines[j] : sines[j];
        const float turned = first[j] * cosine - second[j] * sine;
        second[j] = second[j] * cosine + first[j] * sine;
        first[j] = turned;
    }
}

// Turns the first `turning` heads of each token in place: qkv [T, heads, head_dim].
extern "C" __global__ void rotate_heads(Number *qkv, const float *table, int rows, int turning,
                                        int heads, int head_dim) {
    const int eights = head_dim / 16, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * turning * eights)
        return;
    const int i = index % eights * 8, head = index / eights % turning;
    const int row = index / (eights * turning);
    Number *at = qkv + ((i64)row * heads + head) * head_dim + i;
    float first[8], second[8];
    load(at, first);
    load(at + head_dim / 2, second);
    turn(first, second, table + (i64)row * 2 * head_dim, i, head_dim, false);
    store(first, at);
    store(second, at + head_dim / 2);
}

// The gradient of the product from those of queries, keys and values, of which the first two are
// turned back: dq [T, query_heads, head_dim], dk and dv [T, key_heads, head_dim] →
// dqkv [T, query_heads + 2 · key_heads, head_dim].
extern "C" __global__ void rotate_heads_backward(const Number *dq, const Number *dk,
                                                 const Number *dv, const float *table,
                                                 Number *dqkv, int rows, int query_heads,
                                                 int key_heads, int head_dim) {
    const int heads = query_heads + 2 * key_heads;
    const int eights = head_dim / 16, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * heads * eights)
        return;
    const int i = index % eights * 8, head = index / eights % heads;
    const int row = index / (eights * heads);
    const int key = head - query_heads, value = key - key_heads;
    const Number *from = value >= 0 ? dv + ((i64)row * key_heads + value) * head_dim
                         : key >= 0 ? dk + ((i64)row * key_heads + key) * head_dim
                                    : dq + ((i64)row * query_heads + head) * head_dim;
    float first[8], second[8];
    load(from + i, first);
    load(from + i + head_dim / 2, second);
    if (value < 0)
        turn(first, second, table + (i64)row * 2 * head_dim, i, head_dim, true);
    Number *to = dqkv + ((i64)row * heads + head) * head_dim + i;
    store(first, to);
    store(second, to + head_dim / 2);
}

// Queries, keys and values of latent attention: a head's first `plain` dimensions do not turn, its
// last `rotary` ones do, by a table of [2, rotary] of each token.

// Turns the tail of each head in place: x has rows of `stride` numbers, of which the first are
// [heads, plain + rotary].
extern "C" __global__ void rotate_tails(Number *x, const float *table, int rows, int heads,
                                        int plain, int rotary, i64 stride) {
    const int eights = rotary / 16, index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * heads * eights)
        return;
    const int i = index % eights * 8, head = index / eights % heads;
    const int row = index / (eights * heads);
    Number *at = x + row * stride + head * (plain + rotary) + plain + i;
    float first[8], second[8];
    load(at, first);
    load(at + rotary / 2, second);
    turn(first, second, table + (i64)row * 2 * rotary, i, rotary, false);
    store(first, at);
    store(second, at + rotary / 2);
}

// The gradient of rotate_tails' operand: dy [T, heads, plain + rotary] → the first numbers of dx's
// rows of `stride`.
extern "C" __global__ void rotate_tails_backward(const Number *dy, const float *table, Number *dx,
                                                 int rows, int heads, int plain, int rotary,
                                                 i64 stride) {
    const int still = plain / 8, items = still + rotary / 16;
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * heads * items)
        return;
    const int item = index % items, head = index / items % heads, row = index / (items * heads);
    const int width = plain + rotary;
    const Number *from = dy + ((i64)row * heads + head) * width;
    Number *to = dx + row * stride + head * width;
    if (item < still) {
        *(Eight *)(to + item * 8) = *(const Eight *)(from + item * 8);
        return;
    }
    const int i = (item - still) * 8;
    float first[8], second[8];
    load(from + plain + i, first);
    load(from + plain + i + rotary / 2, second);
    turn(first, second, table + (i64)row * 2 * rotary, i, rotary, true);
    store(first, to + plain + i);
    store(second, to + plain + i + rotary / 2);
}

// Each head's own key beside the turned one that all heads share, and its value with zeros up to
// the key's width: expanded [T, heads, plain + value], shared: rows of `stride` numbers of which
// the first are [rotary] → keys, values [T, heads, plain + rotary].
extern "C" __global__ void expand_latent(const Number *expanded, const Number *shared,
                                         const float *table, Number *keys, Number *values, int rows,
                                         int heads, int plain, int rotary, int value, i64 stride) {
    const int still = plain / 8, turning = rotary / 16, width = plain + rotary;
    const int items = still + turning + width / 8;
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * heads * items)
        return;
    const int item = index % items, head = index / items % heads, row = index / (items * heads);
    const i64 pair = (i64)row * heads + head;
    const Number *from = expanded + pair * (plain + value);
    Number *key = keys + pair * width;
    if (item < still) {
        *(Eight *)(key + item * 8) = *(const Eight *)(from + item * 8);
        return;
    }
    if (item < still + turning) {
        const int i = (item - still) * 8;
        float first[8], second[8];
        load(shared + row * stride + i, first);
        load(shared + row * stride + i + rotary / 2, second);
        turn(first, second, table + (i64)row * 2 * rotary, i, rotary, false);
        store(first, key + plain + i);
        store(second, key + plain + i + rotary / 2);
        return;
    }
    const int i = (item - still - turning) * 8;
    float part[8] = {};
    if (i < value)
        load(from + plain + i, part);
    store(part, values + pair * width + i);
}

// The gradients of expand_latent: dkeys, dvalues [T, heads, plain + rotary] → dexpanded [T, heads,
// plain + value], and dshared [T, rotary], the sum over the heads from the first to the last.
extern "C" __global__ void expand_latent_backward(const Number *dkeys, const Number *dvalues,
                                                  const float *table, Number *dexpanded,
                                                  Number *dshared, int rows, int heads, int plain,
                                                  int rotary, int value) {
    const int still = plain / 8, width = plain + rotary;
    const int of_head = still + value / 8, items = heads * of_head + rotary / 16;
    const int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * items)
        return;
    const int item = index % items, row = index / items;
    if (item < heads * of_head) {
        const int head = item / of_head, eight = item % of_head;
        const i64 pair = (i64)row * heads + head;
        const Number *from = eight < still ? dkeys + pair * width + eight * 8
                                           : dvalues + pair * width + (eight - still) * 8;
        *(Eight *)(dexpanded + pair * (plain + value) + eight * 8) = *(const Eight *)from;
        return;
    }
    const int i = (item - heads * of_head) * 8;
    float first[8] = {}, second[8] = {};
#pragma unroll 4
    for (int head = 0; head < heads; head++) {
        const Number *from = dkeys + ((i64)row * heads + head) * width + plain + i;
        float low[8], high[8];
        load(from, low);
        load(from + rotary / 2, high);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            first[j] += low[j];
            second[j] += high[j];
        }
    }
    turn(first, second, table + (i64)row * 2 * rotary, i, rotary, true);
    store(first, dshared + (i64)row * rotary + i);
    store(second, dshared + (i64)row * rotary + i + rotary / 2);
}
