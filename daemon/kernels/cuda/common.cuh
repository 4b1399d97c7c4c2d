// What every kernel needs. The host puts this text before a kernel's own and defines BFLOAT16 as 1
// or 0: the dtype of weights, activations and cache.

typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#define INFINITY __int_as_float(0x7f800000)

#if BFLOAT16
struct Number {
    u16 bits;
};
__device__ __forceinline__ float wide(Number x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ Number narrow(float x) {
    Number y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
#else
typedef float Number;
__device__ __forceinline__ float wide(Number x) { return x; }
__device__ __forceinline__ Number narrow(float x) { return x; }
#endif

// Eight neighbouring numbers, read and written in accesses of 16 bytes.
struct alignas(16) Eight {
    Number at[8];
};

__device__ __forceinline__ void load(const Number *from, float (&to)[8]) {
    Eight eight = *(const Eight *)from;
#pragma unroll
    for (int i = 0; i < 8; i++)
        to[i] = wide(eight.at[i]);
}

__device__ __forceinline__ void store(const float (&from)[8], Number *to) {
    Eight eight;
#pragma unroll
    for (int i = 0; i < 8; i++)
        eight.at[i] = narrow(from[i]);
    *(Eight *)to = eight;
}

// Lets the next kernel of the stream be launched, and waits until the one before has written its
// results (programmatic dependent launch). Both do nothing where the launch did not ask for it.
__device__ __forceinline__ void take_turn() {
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

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

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}
