// x Wᵀ + b on the CPU for a weight that was packed once and meets few rows many times, as in
// decoding. libtorch's product packs the whole weight anew at every call, which for a few rows
// costs as much as the product itself.
//
// Each output is one sum over the depth in order, so a row's bits do not depend on how many rows
// there are.

#include "guarded.h"
#include "lanes.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// A panel holds this many columns of the product (rows of the weight), depth after depth.
constexpr int64_t kColumns = 32;
// Rows that stay in the second cache while all panels pass by.
constexpr int64_t kRows = 128;

// x [T, depth] against one panel. x, panel and out are of one dtype.
struct Operands {
    const void *x;
    const void *panel;
    int64_t depth;
    const float *bias; // [kColumns]
    void *out;         // kColumns of each row
    int64_t stride;    // from one row of `out` to the next, in elements
};

#if defined(__x86_64__)

#define R1D_BFLOAT16 __attribute__((target("arch=x86-64-v4,avx512bf16")))

// `lanes` vectors of a panel from column `start` on: all sums of the block stay in registers.
template <typename Lanes, int rows, int lanes>
R1D_INLINE void block(const Operands &of, int64_t first, int64_t start) {
    constexpr int64_t width = sizeof(Lanes) / sizeof(float);
    const float *x = static_cast<const float *>(of.x) + first * of.depth;
    const float *panel = static_cast<const float *>(of.panel) + start;
    float *out = static_cast<float *>(of.out) + first * of.stride + start;
    Lanes sums[rows][lanes];
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
        memcpy(&sums[row], of.bias + start, sizeof sums[row]);
    for (int64_t k = 0; k < of.depth; k++) {
        Lanes weights[lanes];
#pragma GCC unroll 4
        for (int lane = 0; lane < lanes; lane++)
            memcpy(&weights[lane], panel + k * kColumns + lane * width, sizeof(Lanes));
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
            const float value = x[row * of.depth + k];
#pragma GCC unroll 4
            for (int lane = 0; lane < lanes; lane++)
                sums[row][lane] += value * weights[lane];
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
        memcpy(out + row * of.stride, &sums[row], sizeof sums[row]);
}

template <int rows> R1D_V4 void block_v4(const Operands &of, int64_t first) {
    block<Lanes16, rows, 2>(of, first, 0);
}

template <int rows> R1D_V3 void block_v3(const Operands &of, int64_t first) {
    block<Lanes8, rows, 2>(of, first, 0);
    block<Lanes8, rows, 2>(of, first, 16);
}

// bfloat16: the weight's depths stand in pairs, whose products are summed in float32.
template <int rows> R1D_BFLOAT16 void block_bfloat16(const Operands &of, int64_t first) {
    const uint16_t *x = static_cast<const uint16_t *>(of.x) + first * of.depth;
    const uint16_t *panel = static_cast<const uint16_t *>(of.panel);
    uint16_t *out = static_cast<uint16_t *>(of.out) + first * of.stride;
    __m512 sums[rows][2];
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
        memcpy(&sums[row], of.bias, sizeof sums[row]);
    for (int64_t k = 0; k < of.depth; k += 2) {
        const __m512bh left = (__m512bh)_mm512_loadu_si512(panel + k * kColumns);
        const __m512bh right = (__m512bh)_mm512_loadu_si512(panel + k * kColumns + kColumns);
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
            int32_t pair;
            memcpy(&pair, x + row * of.depth + k, sizeof pair);
            const __m512bh values = (__m512bh)_mm512_set1_epi32(pair);
            sums[row][0] = _mm512_dpbf16_ps(sums[row][0], values, left);
            sums[row][1] = _mm512_dpbf16_ps(sums[row][1], values, right);
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++) {
        const __m512bh rounded = _mm512_cvtne2ps_pbh(sums[row][1], sums[row][0]);
        memcpy(out + row * of.stride, &rounded, sizeof rounded);
    }
}

using Block = void (*)(const Operands &, int64_t);

// Blocks of 1, 2, … rows. More than 8 would not stay in the first cache where rows lie 4 KiB apart.
struct Kernel {
    const Block *blocks;
    int64_t most;
};

constexpr Block kV4[] = {block_v4<1>, block_v4<2>, block_v4<3>, block_v4<4>,
                         block_v4<5>, block_v4<6>, block_v4<7>, block_v4<8>};
constexpr Block kV3[] = {block_v3<1>, block_v3<2>, block_v3<3>,
                         block_v3<4>, block_v3<5>, block_v3<6>};
constexpr Block kBFloat16[] = {block_bfloat16<1>, block_bfloat16<2>, block_bfloat16<3>,
                               block_bfloat16<4>, block_bfloat16<5>, block_bfloat16<6>,
                               block_bfloat16<7>, block_bfloat16<8>};

Kernel kernel(at::ScalarType kind) {
    const Level here = level();
    if (kind == at::kBFloat16) {
        // With AMX libtorch's own product is the faster one.
        const bool pays = here == Level::v4 && __builtin_cpu_supports("avx512bf16") &&
                          !__builtin_cpu_supports("amx-bf16");
        return pays ? Kernel{kBFloat16, 8} : Kernel{nullptr, 0};
    }
    if (kind != at::kFloat)
        return {nullptr, 0};
    if (here == Level::v4)
        return {kV4, 8};
    if (here == Level::v3)
        return {kV3, 6};
    return {nullptr, 0};
}

#else

struct Kernel {
    void (*const *blocks)(const Operands &, int64_t);
    int64_t most;
};

Kernel kernel(at::ScalarType) { return {nullptr, 0}; }

#endif

void multiply(const at::Tensor &x, const at::Tensor &panels, const at::Tensor *bias,
              at::Tensor &out) {
    const Kernel with = kernel(x.scalar_type());
    TORCH_CHECK(with.most > 0, "this processor has no kernel for packed products");
    const int64_t rows = x.size(0), depth = x.size(1), width = out.size(1),
                  bytes = x.element_size();
    const at::Tensor added = bias ? bias->to(at::kFloat) : at::Tensor();
    const char *from = static_cast<const char *>(x.const_data_ptr());
    const char *packed = static_cast<const char *>(panels.const_data_ptr());
    char *result = static_cast<char *>(out.mutable_data_ptr());
    at::parallel_for(0, panels.size(0), 1, [&](int64_t begin, int64_t end) {
        for (int64_t chunk = 0; chunk < rows; chunk += kRows) {
            const int64_t chunk_rows = std::min(kRows, rows - chunk);
            // Blocks of nearly equal size: a last one of a single row would read the panel for
            // little.
            const int64_t blocks = (chunk_rows + with.most - 1) / with.most;
            for (int64_t panel = begin; panel < end; panel++) {
                const int64_t start = panel * kColumns, columns = std::min(kColumns, width - start);
                float own_bias[kColumns] = {};
                if (bias)
                    memcpy(own_bias, added.const_data_ptr<float>() + start,
                           columns * sizeof(float));
                char *to = result + (chunk * width + start) * bytes;
                // A panel that juts out over the product's edge is computed apart.
                std::vector<char> apart(columns < kColumns ? chunk_rows * kColumns * bytes : 0);
                Operands of{from + chunk * depth * bytes,
                            packed + start * depth * bytes,
                            depth,
                            own_bias,
                            to,
                            width};
                if (!apart.empty())
                    of.out = apart.data(), of.stride = kColumns;
                for (int64_t block = 0; block < blocks; block++) {
                    const int64_t first = block * chunk_rows / blocks,
                                  after = (block + 1) * chunk_rows / blocks;
                    with.blocks[after - first - 1](of, first);
                }
                for (int64_t row = 0; row < chunk_rows && !apart.empty(); row++) {
                    memcpy(to + row * width * bytes, apart.data() + row * kColumns * bytes,
                           columns * bytes);
                }
            }
        }
    });
}

} // namespace

// Whether this processor multiplies packed weights of x's dtype faster than libtorch does.
extern "C" bool r1d_packs(const at::Tensor *weight) {
    return kernel(weight->scalar_type()).most > 0;
}

// x [T, K], panels [P, K, 32] (float32) or [P, K / 2, 32, 2] (bfloat16), bias [N] or null, out [T,
// N]; all contiguous, of one dtype, and 32 P >= N.
extern "C" char *r1d_packed_linear(const at::Tensor *x, const at::Tensor *panels,
                                   const at::Tensor *bias, at::Tensor *out) {
    return guarded([&] {
        TORCH_CHECK(x->dim() == 2 && out->dim() == 2 && x->is_contiguous() &&
                        panels->is_contiguous() && out->is_contiguous(),
                    "contiguous matrices are needed");
        TORCH_CHECK(panels->numel() == panels->size(0) * kColumns * x->size(1), "x has ",
                    x->size(1), " columns, which do not fit the packed weight");
        TORCH_CHECK(out->size(0) == x->size(0) && out->size(1) <= panels->size(0) * kColumns,
                    "the output does not fit");
        TORCH_CHECK(x->scalar_type() == panels->scalar_type() &&
                        x->scalar_type() == out->scalar_type(),
                    "x, weight and output must be of one dtype");
        if (bias)
            TORCH_CHECK(bias->is_contiguous() && bias->numel() == out->size(1) &&
                            bias->scalar_type() == x->scalar_type(),
                        "the bias does not fit");
        if (x->size(0) > 0)
            multiply(*x, *panels, bias, *out);
    });
}
