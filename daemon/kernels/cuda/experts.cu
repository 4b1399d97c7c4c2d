// Products with the experts' matrices, for all dtypes and sizes: a warp multiplies one token by
// some rows of the matrix of one of its experts.

#define WARPS 8

// The product of two rows, in all lanes.
__device__ __forceinline__ float dot(const Number *a, const Number *b, int inner) {
    float sum = 0.0f;
    for (int i = threadIdx.x % 32; i < inner; i += 32)
        sum += wide(a[i]) * wide(b[i]);
    return warp_sum(sum);
}

// y = silu(gate) · up: x [B, inner], chosen int32 [B, K], weight [E, 2 · outer, inner], gate above
// up → y [B · K, outer]. Block (p, c) takes pair p; those of rows from `live` on do nothing.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    gate_any(const Number *x, const int *chosen, const int *live, const Number *weight, Number *y,
             int per_token, int inner, int outer) {
    take_turn();
    const int pair = blockIdx.x, row = pair / per_token;
    if (row >= *live)
        return;
    const Number *matrix = weight + (i64)chosen[pair] * 2 * outer * inner;
    for (int c = blockIdx.y * WARPS + threadIdx.x / 32; c < outer; c += gridDim.y * WARPS) {
        const Number *from = x + (i64)row * inner;
        const float gate = wide(narrow(dot(from, matrix + (i64)c * inner, inner)));
        const float up = wide(narrow(dot(from, matrix + (i64)(outer + c) * inner, inner)));
        if (threadIdx.x % 32 == 0)
            y[(i64)pair * outer + c] = narrow(wide(narrow(gate / (1.0f + expf(-gate)))) * up);
    }
}

// y = weight x: x [B · K, inner], chosen int32 [B, K], weight [E, outer, inner] → y [B · K, outer],
// as gate_any does.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    down_any(const Number *x, const int *chosen, const int *live, const Number *weight, Number *y,
             int per_token, int inner, int outer) {
    take_turn();
    const int pair = blockIdx.x;
    if (pair / per_token >= *live)
        return;
    const Number *matrix = weight + (i64)chosen[pair] * outer * inner;
    for (int c = blockIdx.y * WARPS + threadIdx.x / 32; c < outer; c += gridDim.y * WARPS) {
        const float value = dot(x + (i64)pair * inner, matrix + (i64)c * inner, inner);
        if (threadIdx.x % 32 == 0)
            y[(i64)pair * outer + c] = narrow(value);
    }
}
