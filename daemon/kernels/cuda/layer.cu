// The parts of a decoder layer between its matrix products, for one token of each row.

// h[b] = table[ids[b]]: ids [B], table [V, width], h [B, width]. The first kernel of a step: step
// [1] grows by 1.
extern "C" __global__ void embed(const int *ids, const Number *table, Number *h, int *step,
                                 int width) {
    take_turn();
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *step += 1;
    const Number *from = table + (i64)ids[blockIdx.x] * width;
    Number *to = h + (i64)blockIdx.x * width;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8)
        *(Eight *)(to + i) = *(const Eight *)(from + i);
}

// y = w x / sqrt(mean(x²) + epsilon), statistics in float32: x, y [B, width], w [width].
extern "C" __global__ void rms_norm(const Number *x, const Number *w, Number *y, int width,
                                    float epsilon) {
    take_turn();
    const Number *from = x + (i64)blockIdx.x * width;
    Number *to = y + (i64)blockIdx.x * width;
    float sum = 0.0f;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        float values[8];
        load(from + i, values);
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
    const float scale = rsqrtf(total / (float)width + epsilon);
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
        float values[8], weights[8];
        load(from + i, values);
        load(w + i, weights);
#pragma unroll
        for (int j = 0; j < 8; j++)
            values[j] *= scale * weights[j];
        store(values, to + i);
    }
}

// y = silu(gate) · up: gate_up [B, 2 · width], gate before up, y [B, width].
extern "C" __global__ void silu_mul(const Number *gate_up, Number *y, int width) {
    take_turn();
    const int i = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
    if (i >= width)
        return;
    const Number *from = gate_up + (i64)blockIdx.x * 2 * width + i;
    float gate[8], up[8];
    load(from, gate);
    load(from + width, up);
#pragma unroll
    for (int j = 0; j < 8; j++) {
        // Rounded between the two operations, as libtorch's silu and product are.
        const float silu = wide(narrow(gate[j] / (1.0f + expf(-gate[j]))));
        gate[j] = silu * up[j];
    }
    store(gate, y + (i64)blockIdx.x * width + i);
}
