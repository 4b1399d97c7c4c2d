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
    const i64 row = (i64)blockIdx.x * width;
    const float scale = norm_of_row(x + row, width, epsilon);
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8)
        *(Eight *)(y + row + i) = normed_eight(x + row + i, w + i, scale);
}

// y = silu(gate) · up: gate_up [B, 2 · width], gate before up, y [B, width].
extern "C" __global__ void silu_mul(const Number *gate_up, Number *y, int width) {
    take_turn();
    const int i = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
    if (i >= width)
        return;
    const Number *from = gate_up + (i64)blockIdx.x * 2 * width + i;
    *(Eight *)(y + (i64)blockIdx.x * width + i) = gate_eight(from, from + width);
}
