// Merges the parts of attention's places: partial float32 [B, heads, splits, width + 2] (the sum,
// its weight and its largest score in units of log2) → out [B, heads, width]. One block of `width`
// threads takes one head of one row; rows from `live` on do nothing.
extern "C" __global__ void merge(const float *partial, const int *live, Number *out, int heads,
                                 int splits) {
    take_turn();
    if (blockIdx.x >= *live)
        return;
    const int width = blockDim.x;
    const i64 head = (i64)blockIdx.x * heads + blockIdx.y;
    const float *from = partial + head * splits * (width + 2);
    // Stands for minus infinity: differences of two stay numbers.
    float top = -1e30f;
    for (int s = 0; s < splits; s++)
        top = fmaxf(top, from[s * (width + 2) + width + 1]);
    float total = 0.0f, all = 0.0f;
    for (int s = 0; s < splits; s++) {
        const float *part = from + s * (width + 2);
        const float share = exp2f(part[width + 1] - top);
        total += part[threadIdx.x] * share;
        all += part[width] * share;
    }
    out[head * width + threadIdx.x] = narrow(total / all);
}
