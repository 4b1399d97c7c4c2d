// Vectors of floats, which the compiler maps to the processor's registers, and the levels of x86-64
// that a kernel is compiled for.

#pragma once

#if !defined(_OPENMP)
#error "without -fopenmp libtorch's parallel_for would run these kernels on one thread"
#endif

#include <cstdint>
#include <cstring>

#define R1D_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__)
#define R1D_V4 __attribute__((target("arch=x86-64-v4")))
#define R1D_V3 __attribute__((target("arch=x86-64-v3")))
#else
#define R1D_V4
#define R1D_V3
#endif

typedef float Lanes16 __attribute__((vector_size(64)));
typedef float Lanes8 __attribute__((vector_size(32)));

enum class Level { baseline, v3, v4 };

// What this processor has: v3 is AVX2 with FMA, v4 is AVX-512.
inline Level level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512cd")) {
        return Level::v4;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return Level::v3;
#endif
    return Level::baseline;
}
