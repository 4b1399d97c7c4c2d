// Runs a kernel's text on a CPU, as far as daemon/kernels/cuda needs: the threads of a block are
// fibers that take turns at barriers and at what a warp does together. It stands before common.cuh,
// in the place of ptx.cuh; test_kernels_compute.py puts the texts together.

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// One block runs at a time.
#define __shared__ static

struct Index {
    int x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

static Index threadIdx, blockIdx, blockDim, gridDim;
alignas(16) static unsigned char dynamic_shared[256 << 10];

// --- fibers

constexpr int THREADS_MAX = 1024;
constexpr int STACK_BYTES = 128 << 10;

struct Barrier {
    int arrived = 0, generation = 0;
};

// Begun by its context, then switched by jumps, which ask the system for nothing.
struct Fiber {
    ucontext_t context;
    jmp_buf here;
    bool begun, done;
};

static Fiber fibers[THREADS_MAX];
static jmp_buf scheduler;
static std::vector<unsigned char> stacks;
static std::function<void()> body;
static Barrier block_barrier, warp_barriers[THREADS_MAX / 32];
static uint64_t exchanged[THREADS_MAX][8];

static void yield() {
    if (!_setjmp(fibers[threadIdx.x].here))
        _longjmp(scheduler, 1);
}

static void resume(Fiber &fiber) {
    if (_setjmp(scheduler))
        return;
    if (fiber.begun)
        _longjmp(fiber.here, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

static void meet(Barrier &barrier, int threads) {
    const int generation = barrier.generation;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    while (barrier.generation == generation)
        yield();
}

static void run_fiber() {
    const int thread = threadIdx.x;
    body();
    fibers[thread].done = true;
    _longjmp(scheduler, 1);
}

static void run_block(int threads) {
    stacks.resize((size_t)THREADS_MAX * STACK_BYTES);
    // What shared memory holds at first is of another kernel.
    std::memset(dynamic_shared, 0xff, sizeof dynamic_shared);
    block_barrier = Barrier();
    std::fill(std::begin(warp_barriers), std::end(warp_barriers), Barrier());
    for (int thread = 0; thread < threads; thread++) {
        Fiber &fiber = fibers[thread];
        fiber.begun = fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = &stacks[(size_t)thread * STACK_BYTES];
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (int left = threads; left > 0;)
        for (int thread = 0; thread < threads; thread++)
            if (!fibers[thread].done) {
                threadIdx = {thread, 0, 0};
                resume(fibers[thread]);
                left -= fibers[thread].done;
            }
}

// --- what CUDA has

inline void __syncthreads() { meet(block_barrier, blockDim.x); }
inline void __syncwarp() { meet(warp_barriers[threadIdx.x / 32], 32); }

// Each lane shows `value`; then `use` looks at what the lanes of the warp have shown.
template <typename T, typename Use> auto together(T value, Use use) {
    std::memcpy(exchanged[threadIdx.x], &value, sizeof value);
    __syncwarp();
    auto of_lane = [](int lane) {
        T shown;
        std::memcpy(&shown, exchanged[threadIdx.x / 32 * 32 + lane], sizeof shown);
        return shown;
    };
    auto result = use(of_lane);
    __syncwarp();
    return result;
}
template <typename T> T __shfl_sync(u32, T value, int from) {
    return together(value, [=](auto of) { return of(from & 31); });
}
template <typename T> T __shfl_xor_sync(u32, T value, int distance) {
    return __shfl_sync(0, value, threadIdx.x % 32 ^ distance);
}
template <typename T> T __shfl_up_sync(u32, T value, int distance) {
    const int lane = threadIdx.x % 32;
    return __shfl_sync(0, value, lane < distance ? lane : lane - distance);
}
inline u32 __ballot_sync(u32, bool value) {
    return together(value, [](auto of) {
        u32 bits = 0;
        for (int lane = 0; lane < 32; lane++)
            bits |= (u32)of(lane) << lane;
        return bits;
    });
}
template <typename Better> int best_of_warp(int value, Better better) {
    return together(value, [=](auto of) {
        int best = of(0);
        for (int lane = 1; lane < 32; lane++)
            best = better(best, of(lane));
        return best;
    });
}
inline int __reduce_min_sync(u32, int value) {
    return best_of_warp(value, [](int a, int b) { return std::min(a, b); });
}
inline int __reduce_max_sync(u32, int value) {
    return best_of_warp(value, [](int a, int b) { return std::max(a, b); });
}
inline int __popc(u32 x) { return __builtin_popcount(x); }
inline int __ffs(u32 x) { return __builtin_ffs(x); }
inline int __clz(u32 x) { return x ? __builtin_clz(x) : 32; }
inline u32 __float_as_uint(float x) {
    u32 bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(u32 bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline u32 __byte_perm(u32 low, u32 high, u32 selector) {
    const uint64_t bytes = (uint64_t)high << 32 | low;
    u32 result = 0;
    for (int i = 0; i < 4; i++)
        result |= (u32)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}
template <typename T> T atomicAdd(T *at, T value) { return std::exchange(*at, *at + value); }
template <typename T> T atomicMin(T *at, T value) {
    return std::exchange(*at, std::min(*at, value));
}
template <typename T> T atomicMax(T *at, T value) {
    return std::exchange(*at, std::max(*at, value));
}
inline int min(int a, int b) { return std::min(a, b); }
inline int max(int a, int b) { return std::max(a, b); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

// --- what ptx.cuh has

inline u16 to_bfloat16(float x) {
    const u32 bits = __float_as_uint(x);
    if (x != x)
        return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline u32 to_bfloat16s(float low, float high) {
    return to_bfloat16(low) | (u32)to_bfloat16(high) << 16;
}
inline float exp2_fast(float x) { return std::exp2(x); }
inline void prefetch(const void *) {}
inline void take_turn() {}
inline void multiply_add(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    struct Operands {
        u32 a[4], b[2];
    };
    const Operands own = {{a0, a1, a2, a3}, {b0, b1}};
    together(own, [&](auto of) {
        const auto number = [](u32 pair, int half) {
            return __uint_as_float(half ? pair & 0xffff0000u : pair << 16);
        };
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        for (int i = 0; i < 4; i++) {
            const int row = g + i / 2 * 8, column = 2 * t + i % 2;
            for (int k = 0; k < 16; k++) {
                const u32 a = of(row % 8 * 4 + k % 8 / 2).a[row / 8 + k / 8 * 2];
                const u32 b = of(column * 4 + k % 8 / 2).b[k / 8];
                c[i] += number(a, k % 2) * number(b, k % 2);
            }
        }
        return 0;
    });
}
inline u32 times(u32 a, u32 b) {
    return to_bfloat16s(__uint_as_float(a << 16) * __uint_as_float(b << 16),
                        __uint_as_float(a & 0xffff0000u) * __uint_as_float(b & 0xffff0000u));
}
inline u32 to_e4m3(float x) {
    const u32 sign = __float_as_uint(x) >> 24 & 0x80;
    const float size = std::min(std::fabs(x), 448.0f);
    // Below the smallest normal number the steps are 2^-9.
    if (size < 0.015625f)
        return sign | (u32)std::rint(size * 512.0f);
    const u32 bits = __float_as_uint(size);
    return sign | ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3);
}
inline u32 to_e4m3s(float low, float high) { return to_e4m3(low) | to_e4m3(high) << 8; }
inline u32 transpose(u32 pair) {
    return together(pair, [](auto of) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const auto number = [&](int row) { return of(4 * row + g / 2) >> 16 * (g % 2) & 0xffffu; };
        return number(2 * t) | number(2 * t + 1) << 16;
    });
}
struct alignas(16) Piece {
    u32 at[4];
};
inline Piece read_once(const void *from) { return *(const Piece *)from; }

// --- launches

template <typename T> T argument(uint64_t slot) {
    T value;
    std::memcpy(&value, &slot, sizeof value);
    return value;
}
template <typename... P, size_t... I>
void call(void (*kernel)(P...), const uint64_t *slots, std::index_sequence<I...>) {
    kernel(argument<P>(slots[I])...);
}
// As the driver's launch: each argument in 8 bytes, of which the parameter's type takes its own.
template <typename... P>
void launch(void (*kernel)(P...), const int *grid, int threads, const uint64_t *slots) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    body = [=] { call(kernel, slots, std::index_sequence_for<P...>()); };
    for (int z = 0; z < grid[2]; z++)
        for (int y = 0; y < grid[1]; y++)
            for (int x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                run_block(threads);
            }
}
