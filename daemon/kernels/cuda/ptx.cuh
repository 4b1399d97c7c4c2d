// Instructions that CUDA C++ has no words for. tests/kernels emulates them on a CPU, with the rest
// of a kernel's text as it is.

typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#define INFINITY __int_as_float(0x7f800000)

// The bits of x, rounded to bfloat16.
__device__ __forceinline__ u16 to_bfloat16(float x) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

// Two bfloat16 in one register, the first in the low half.
__device__ __forceinline__ u32 to_bfloat16s(float low, float high) {
    u32 bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

// 2^x within two units of the last place; 0 for minus infinity.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Brings the line of this address to the second cache.
__device__ __forceinline__ void prefetch(const void *address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// Waits until the kernel before has written its results, then lets the next one of the stream begin
// (programmatic dependent launch). The next one begins no earlier, so what was written before the
// kernel before is there when this one begins. Both do nothing where the launch did not ask for it.
__device__ __forceinline__ void take_turn() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
}

// c += a b of bfloat16, for a warp: a [16, 16], b [16, 8], c [16, 8] float32. With g = lane / 4 and
// t = lane % 4, a lane has of a the columns 2t, 2t + 1 of rows g (a0) and g + 8 (a1) and the
// columns 2t + 8, 2t + 9 of these (a2, a3), of b the rows 2t, 2t + 1 (b0) and 2t + 8, 2t + 9 (b1)
// of column g, of c the columns 2t, 2t + 1 of rows g (c[0], c[1]) and g + 8 (c[2], c[3]).
__device__ __forceinline__ void multiply_add(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0,
                                             u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The products of two pairs of bfloat16.
__device__ __forceinline__ u32 times(u32 a, u32 b) {
    u32 result;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

// Two numbers rounded to e4m3, the first in the low byte.
__device__ __forceinline__ u32 to_e4m3s(float low, float high) {
    u16 bits;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(high), "f"(low));
    return bits;
}

// The transpose of a matrix [8, 8] of 16 bits, for a warp: a lane has columns 2t, 2t + 1 of row g,
// and gets rows 2t, 2t + 1 of column g.
__device__ __forceinline__ u32 transpose(u32 pair) {
    u32 result;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}

// 16 bytes that are read once and that nothing writes while the kernel runs: they leave what the
// first cache holds in peace.
struct alignas(16) Piece {
    u32 at[4];
};
__device__ __forceinline__ Piece read_once(const void *from) {
    Piece piece;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(piece.at[0]), "=r"(piece.at[1]), "=r"(piece.at[2]), "=r"(piece.at[3])
                 : "l"(from));
    return piece;
}
