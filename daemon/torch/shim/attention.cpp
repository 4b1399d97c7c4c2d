// Attention of one query per sequence over its cached keys, on the CPU. libtorch's batched product
// packs every sequence's keys anew for a few rows of queries, which costs more than the product;
// this reads each key and value once.

#include "guarded.h"
#include "lanes.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <limits>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

typedef uint32_t Words16 __attribute__((vector_size(64)));
typedef uint16_t Halves16 __attribute__((vector_size(32)));
typedef uint32_t Words8 __attribute__((vector_size(32)));
typedef uint16_t Halves8 __attribute__((vector_size(16)));

template <typename Lanes> constexpr int64_t kWidth = sizeof(Lanes) / sizeof(float);

R1D_INLINE void load(const float *from, Lanes16 &to) { memcpy(&to, from, sizeof to); }
R1D_INLINE void load(const float *from, Lanes8 &to) { memcpy(&to, from, sizeof to); }

// bfloat16 is the upper half of a float.
template <typename Halves, typename Words, typename Lanes>
R1D_INLINE void widen(const uint16_t *from, Lanes &to) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words) << 16;
    memcpy(&to, &words, sizeof to);
}
R1D_INLINE void load(const uint16_t *from, Lanes16 &to) { widen<Halves16, Words16>(from, to); }
R1D_INLINE void load(const uint16_t *from, Lanes8 &to) { widen<Halves8, Words8>(from, to); }

R1D_INLINE float single(float value) { return value; }
R1D_INLINE float single(uint16_t bits) {
    const uint32_t word = uint32_t{bits} << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

// Neighbouring lanes of both, added.
R1D_INLINE Lanes16 neighbours(const Lanes16 &a, const Lanes16 &b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                   30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#else
    return __builtin_shuffle(a, b,
                             Words16{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30}) +
           __builtin_shuffle(a, b,
                             Words16{1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31});
#endif
}
R1D_INLINE Lanes8 neighbours(const Lanes8 &a, const Lanes8 &b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
    return __builtin_shuffle(a, b, Words8{0, 2, 4, 6, 8, 10, 12, 14}) +
           __builtin_shuffle(a, b, Words8{1, 3, 5, 7, 9, 11, 13, 15});
#endif
}

// Lane i of the result is the sum over the lanes of part i.
template <typename Lanes> R1D_INLINE Lanes sums_of(Lanes *parts) {
#pragma GCC unroll 4
    for (int64_t count = kWidth<Lanes> / 2; count > 0; count /= 2) {
#pragma GCC unroll 8
        for (int64_t i = 0; i < count; i++)
            parts[i] = neighbours(parts[2 * i], parts[2 * i + 1]);
    }
    return parts[0];
}

// e to the x for x <= 0, to about one unit in the last place; below -87 it stays at e to the -87,
// which beside a weight of 1 is nothing.
template <typename Lanes, typename Words> R1D_INLINE Lanes exponential(const Lanes &of) {
    const Lanes x = of < -87.0f ? Lanes{} - 87.0f : of;
    // Adding 1.5 times 2 to the 23 leaves the nearest whole number in the low bits.
    const Lanes shifted = x * 1.44269504088896341f + 12582912.0f;
    const Lanes whole = shifted - 12582912.0f;
    const Lanes rest = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
    Lanes series = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    series = series * rest + 8.3334519073e-3f;
    series = series * rest + 4.1665795894e-2f;
    series = series * rest + 1.6666665459e-1f;
    series = series * rest + 5.0000001201e-1f;
    series = series * (rest * rest) + rest + 1.0f;
    Words exponent, bits;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &series, sizeof bits);
    bits += exponent << 23;
    memcpy(&series, &bits, sizeof bits);
    return series;
}

// Some of the query heads that share a key head, in one sequence.
struct Work {
    const float *query; // [heads, width]
    int64_t width;
    const void *keys; // rows of width, key_stride elements apart
    int64_t key_stride;
    const void *values; // rows of value_width, value_stride elements apart
    int64_t value_stride;
    int64_t value_width;
    int64_t seen;
    float scale;
    float *weights; // [heads, weights_stride], for `seen` of them and up to a whole vector more
    int64_t weights_stride;
    float *out; // [heads, value_width]
};

// weights[h][t] = scale * q[h] . k[t]
template <typename Lanes, typename Element, int heads> R1D_INLINE void score(const Work &of) {
    constexpr int64_t lanes = kWidth<Lanes>;
    const int64_t whole = of.width / lanes * lanes;
    for (int64_t first = 0; first < of.seen; first += lanes) {
        Lanes parts[heads][lanes];
        for (int64_t t = 0; t < lanes; t++) {
            // Behind the last key it comes again, and its weights are overwritten.
            const Element *key = static_cast<const Element *>(of.keys) +
                                 std::min(first + t, of.seen - 1) * of.key_stride;
            Lanes sums[heads] = {};
            for (int64_t i = 0; i < whole; i += lanes) {
                Lanes part;
                load(key + i, part);
#pragma GCC unroll 4
                for (int head = 0; head < heads; head++) {
                    Lanes own;
                    load(of.query + head * of.width + i, own);
                    sums[head] += own * part;
                }
            }
            for (int64_t i = whole; i < of.width; i++) {
#pragma GCC unroll 4
                for (int head = 0; head < heads; head++)
                    sums[head][0] += of.query[head * of.width + i] * single(key[i]);
            }
#pragma GCC unroll 4
            for (int head = 0; head < heads; head++)
                parts[head][t] = sums[head];
        }
#pragma GCC unroll 4
        for (int head = 0; head < heads; head++) {
            const Lanes totals = sums_of(parts[head]) * of.scale;
            memcpy(of.weights + head * of.weights_stride + first, &totals, sizeof totals);
        }
    }
}

// weights[t] = e to the (weights[t] - their greatest); returns their sum.
template <typename Lanes, typename Words>
R1D_INLINE float exponentiate(float *weights, int64_t seen) {
    constexpr int64_t lanes = kWidth<Lanes>;
    const int64_t padded = (seen + lanes - 1) / lanes * lanes;
    for (int64_t t = seen; t < padded; t++)
        weights[t] = -std::numeric_limits<float>::infinity();
    Lanes most, sum = {};
    load(weights, most);
    for (int64_t t = lanes; t < padded; t += lanes) {
        Lanes next;
        load(weights + t, next);
        most = next > most ? next : most;
    }
    float greatest = most[0];
    for (int64_t lane = 1; lane < lanes; lane++)
        greatest = std::max(greatest, most[lane]);
    for (int64_t t = 0; t < padded; t += lanes) {
        Lanes next;
        load(weights + t, next);
        next = exponential<Lanes, Words>(next - greatest);
        memcpy(weights + t, &next, sizeof next);
        sum += next;
    }
    float total = 0;
    for (int64_t lane = 0; lane < lanes; lane++)
        total += sum[lane];
    return total;
}

// out[h] = factor[h] times the sum over t of weights[h][t] * v[t], for `parts` vectors from column
// i on.
template <typename Lanes, typename Element, int heads, int parts>
R1D_INLINE void mix_columns(const Work &of, const float *factors, int64_t i) {
    constexpr int64_t lanes = kWidth<Lanes>;
    const Element *value = static_cast<const Element *>(of.values) + i;
    Lanes sums[heads][parts] = {};
    for (int64_t t = 0; t < of.seen; t++, value += of.value_stride) {
#pragma GCC unroll 4
        for (int part = 0; part < parts; part++) {
            Lanes row;
            load(value + part * lanes, row);
#pragma GCC unroll 4
            for (int head = 0; head < heads; head++)
                sums[head][part] += of.weights[head * of.weights_stride + t] * row;
        }
    }
    for (int head = 0; head < heads; head++) {
        for (int part = 0; part < parts; part++) {
            const Lanes result = sums[head][part] * factors[head];
            memcpy(of.out + head * of.value_width + i + part * lanes, &result, sizeof result);
        }
    }
}

template <typename Lanes, typename Words, typename Element, int heads>
R1D_INLINE void attend(const Work &of) {
    constexpr int64_t lanes = kWidth<Lanes>;
    // As many sums as there are registers for.
    constexpr int parts = lanes == 16 ? 4 : (heads > 2 ? 2 : 4);
    score<Lanes, Element, heads>(of);
    float factors[heads];
    for (int head = 0; head < heads; head++)
        factors[head] =
            1.0f / exponentiate<Lanes, Words>(of.weights + head * of.weights_stride, of.seen);
    int64_t i = 0;
    for (; i + parts * lanes <= of.value_width; i += parts * lanes)
        mix_columns<Lanes, Element, heads, parts>(of, factors, i);
    for (; i + lanes <= of.value_width; i += lanes)
        mix_columns<Lanes, Element, heads, 1>(of, factors, i);
    for (; i < of.value_width; i++) {
        for (int head = 0; head < heads; head++) {
            float sum = 0;
            for (int64_t t = 0; t < of.seen; t++) {
                sum += of.weights[head * of.weights_stride + t] *
                       single(static_cast<const Element *>(of.values)[t * of.value_stride + i]);
            }
            of.out[head * of.value_width + i] = sum * factors[head];
        }
    }
}

template <typename Element, int heads> R1D_V4 void attend_v4(const Work &of) {
    attend<Lanes16, Words16, Element, heads>(of);
}
template <typename Element, int heads> R1D_V3 void attend_v3(const Work &of) {
    attend<Lanes8, Words8, Element, heads>(of);
}
template <typename Element, int heads> void attend_baseline(const Work &of) {
    attend<Lanes8, Words8, Element, heads>(of);
}

template <typename Element, int heads> void attend_here(const Work &of) {
    static const Level here = level();
    switch (here) {
    case Level::v4:
        return attend_v4<Element, heads>(of);
    case Level::v3:
        return attend_v3<Element, heads>(of);
    default:
        return attend_baseline<Element, heads>(of);
    }
}

// All query heads of one key head: each key and value is read once for four of them.
template <typename Element> void attend_group(Work of, int64_t heads) {
    while (heads > 0) {
        const int64_t now = heads >= 4 ? 4 : heads >= 2 ? 2 : 1;
        if (now == 4)
            attend_here<Element, 4>(of);
        if (now == 2)
            attend_here<Element, 2>(of);
        if (now == 1)
            attend_here<Element, 1>(of);
        heads -= now;
        of.query += now * of.width;
        of.out += now * of.value_width;
    }
}

void attend_all(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                const at::Tensor &positions, double scale, at::Tensor &out) {
    const bool half = k.scalar_type() == at::kBFloat16;
    const int64_t heads = q.size(1), width = q.size(2), key_heads = k.size(1),
                  value_width = v.size(3), group = heads / key_heads;
    const int64_t *position = positions.const_data_ptr<int64_t>();
    const char *keys = static_cast<const char *>(k.const_data_ptr());
    const char *values = static_cast<const char *>(v.const_data_ptr());
    const int64_t bytes = half ? 2 : 4, weights_stride = k.size(2) + kWidth<Lanes16>;
    at::parallel_for(0, q.size(0) * key_heads, 1, [&](int64_t begin, int64_t end) {
        std::vector<float> weights(4 * weights_stride);
        for (int64_t index = begin; index < end; index++) {
            const int64_t row = index / key_heads, key_head = index % key_heads,
                          first = row * heads + key_head * group;
            const Work of{q.const_data_ptr<float>() + first * width,
                          width,
                          keys + (row * k.stride(0) + key_head * k.stride(1)) * bytes,
                          k.stride(2),
                          values + (row * v.stride(0) + key_head * v.stride(1)) * bytes,
                          v.stride(2),
                          value_width,
                          position[row] + 1,
                          static_cast<float>(scale),
                          weights.data(),
                          weights_stride,
                          out.mutable_data_ptr<float>() + first * value_width};
            if (half) {
                attend_group<uint16_t>(of, group);
            } else {
                attend_group<float>(of, group);
            }
        }
    });
}

} // namespace

// q float32 [B, H, d] and out float32 [B, H, dv], contiguous; k [B, Hk, L, d] and v [B, Hk, L, dv]
// float32 or bfloat16 with contiguous rows; positions int64 [B], each below L.
extern "C" char *r1d_decode_attention(const at::Tensor *q, const at::Tensor *k, const at::Tensor *v,
                                      const at::Tensor *positions, double scale, at::Tensor *out) {
    return guarded([&] {
        TORCH_CHECK(q->is_contiguous() && out->is_contiguous() && positions->is_contiguous(),
                    "queries, positions and output must be contiguous");
        TORCH_CHECK(q->scalar_type() == at::kFloat && out->scalar_type() == at::kFloat,
                    "queries and output must be float32");
        TORCH_CHECK(k->stride(3) == 1 && v->stride(3) == 1 && k->scalar_type() == v->scalar_type(),
                    "rows of keys and values must be contiguous, of one dtype");
        TORCH_CHECK(k->scalar_type() == at::kFloat || k->scalar_type() == at::kBFloat16,
                    "keys must be float32 or bfloat16");
        TORCH_CHECK(q->size(0) == k->size(0) && positions->size(0) == q->size(0) &&
                        q->size(2) == k->size(3) && q->size(1) % k->size(1) == 0,
                    "sizes");
        const int64_t *position = positions->const_data_ptr<int64_t>();
        for (int64_t row = 0; row < positions->size(0); row++) {
            TORCH_CHECK(position[row] >= 0 && position[row] < k->size(2),
                        "a position lies outside the keys");
        }
        attend_all(*q, *k, *v, *positions, scale, *out);
    });
}
