// Attention of one query per sequence over its cached keys, on the CPU. libtorch's batched product packs every sequence's keys anew for a
// few rows of queries, which costs more than the product; this reads each key and value once.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <vector>

#if defined(__x86_64__)
#define R1D_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define R1D_CLONES
#endif

namespace {

constexpr int64_t kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t))));

inline __attribute__((always_inline)) Lanes load(const float* from) {
  Lanes lanes;
  memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

// bfloat16 is the upper half of a float.
inline __attribute__((always_inline)) Lanes load(const uint16_t* from) {
  Halves halves;
  memcpy(&halves, from, sizeof halves);
  Words words = __builtin_convertvector(halves, Words) << 16;
  Lanes lanes;
  memcpy(&lanes, &words, sizeof lanes);
  return lanes;
}

inline __attribute__((always_inline)) float single(float value) { return value; }

inline __attribute__((always_inline)) float single(uint16_t bits) {
  uint32_t word = uint32_t{bits} << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

// scores[t] = q . k[t]
template <typename Element>
inline __attribute__((always_inline)) void score(const float* q, const Element* k, int64_t stride, int64_t keys, int64_t width, float* scores) {
  const int64_t whole = width / kLanes * kLanes;
  for (int64_t t = 0; t < keys; t++, k += stride) {
    Lanes sum = {};
    for (int64_t i = 0; i < whole; i += kLanes) sum += load(q + i) * load(k + i);
    float total = 0;
    for (int64_t lane = 0; lane < kLanes; lane++) total += sum[lane];
    for (int64_t i = whole; i < width; i++) total += q[i] * single(k[i]);
    scores[t] = total;
  }
}

// out = sum over t of weights[t] * v[t]
template <typename Element>
inline __attribute__((always_inline)) void mix(const float* weights, const Element* v, int64_t stride, int64_t keys, int64_t width, float* out) {
  const int64_t whole = width / kLanes * kLanes;
  int64_t i = 0;
  // A cache line or more of each row at a time.
  for (; i + 4 * kLanes <= whole; i += 4 * kLanes) {
    Lanes sums[4] = {};
    for (int64_t t = 0; t < keys; t++) {
      for (int64_t part = 0; part < 4; part++) sums[part] += weights[t] * load(v + t * stride + i + part * kLanes);
    }
    memcpy(out + i, sums, sizeof sums);
  }
  for (; i < whole; i += kLanes) {
    Lanes sum = {};
    for (int64_t t = 0; t < keys; t++) sum += weights[t] * load(v + t * stride + i);
    memcpy(out + i, &sum, sizeof sum);
  }
  for (; i < width; i++) {
    float sum = 0;
    for (int64_t t = 0; t < keys; t++) sum += weights[t] * single(v[t * stride + i]);
    out[i] = sum;
  }
}

R1D_CLONES void score_float(const float* q, const float* k, int64_t stride, int64_t keys, int64_t width, float* scores) {
  score(q, k, stride, keys, width, scores);
}
R1D_CLONES void score_bfloat16(const float* q, const uint16_t* k, int64_t stride, int64_t keys, int64_t width, float* scores) {
  score(q, k, stride, keys, width, scores);
}
R1D_CLONES void mix_float(const float* weights, const float* v, int64_t stride, int64_t keys, int64_t width, float* out) {
  mix(weights, v, stride, keys, width, out);
}
R1D_CLONES void mix_bfloat16(const float* weights, const uint16_t* v, int64_t stride, int64_t keys, int64_t width, float* out) {
  mix(weights, v, stride, keys, width, out);
}

void attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& positions, double scale, at::Tensor& out) {
  const bool half = k.scalar_type() == at::kBFloat16;
  const int64_t batch = q.size(0), heads = q.size(1), width = q.size(2), key_heads = k.size(1), value_width = v.size(3);
  const int64_t group = heads / key_heads;
  const int64_t* position = positions.const_data_ptr<int64_t>();
  const float* query = q.const_data_ptr<float>();
  float* result = out.mutable_data_ptr<float>();
  const char* keys = static_cast<const char*>(k.const_data_ptr());
  const char* values = static_cast<const char*>(v.const_data_ptr());
  const int64_t bytes = half ? 2 : 4;
  at::parallel_for(0, batch * key_heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(k.size(2)), scaled(width);
    for (int64_t index = begin; index < end; index++) {
      const int64_t row = index / key_heads, key_head = index % key_heads, seen = position[row] + 1;
      const char* own_keys = keys + (row * k.stride(0) + key_head * k.stride(1)) * bytes;
      const char* own_values = values + (row * v.stride(0) + key_head * v.stride(1)) * bytes;
      for (int64_t head = key_head * group; head < (key_head + 1) * group; head++) {
        const float* own_query = query + (row * heads + head) * width;
        for (int64_t i = 0; i < width; i++) scaled[i] = own_query[i] * static_cast<float>(scale);
        if (half) {
          score_bfloat16(scaled.data(), reinterpret_cast<const uint16_t*>(own_keys), k.stride(2), seen, width, weights.data());
        } else {
          score_float(scaled.data(), reinterpret_cast<const float*>(own_keys), k.stride(2), seen, width, weights.data());
        }
        float most = weights[0], sum = 0;
        for (int64_t t = 1; t < seen; t++) most = std::max(most, weights[t]);
        for (int64_t t = 0; t < seen; t++) sum += weights[t] = std::exp(weights[t] - most);
        float* own_result = result + (row * heads + head) * value_width;
        if (half) {
          mix_bfloat16(weights.data(), reinterpret_cast<const uint16_t*>(own_values), v.stride(2), seen, value_width, own_result);
        } else {
          mix_float(weights.data(), reinterpret_cast<const float*>(own_values), v.stride(2), seen, value_width, own_result);
        }
        for (int64_t i = 0; i < value_width; i++) own_result[i] /= sum;
      }
    }
  });
}

}  // namespace

// q float32 [B, H, d] and out float32 [B, H, dv], contiguous; k [B, Hk, L, d] and v [B, Hk, L, dv] float32 or bfloat16 with contiguous rows; positions
// int64 [B], each below L.
extern "C" char* r1d_decode_attention(
    const at::Tensor* q, const at::Tensor* k, const at::Tensor* v, const at::Tensor* positions, double scale, at::Tensor* out) {
  try {
    TORCH_CHECK(q->is_contiguous() && out->is_contiguous() && positions->is_contiguous(), "queries, positions and output must be contiguous");
    TORCH_CHECK(q->scalar_type() == at::kFloat && out->scalar_type() == at::kFloat, "queries and output must be float32");
    TORCH_CHECK(k->stride(3) == 1 && v->stride(3) == 1 && k->scalar_type() == v->scalar_type(), "rows of keys and values must be contiguous, of one dtype");
    TORCH_CHECK(k->scalar_type() == at::kFloat || k->scalar_type() == at::kBFloat16, "keys must be float32 or bfloat16");
    TORCH_CHECK(q->size(0) == k->size(0) && positions->size(0) == q->size(0) && q->size(2) == k->size(3) && q->size(1) % k->size(1) == 0, "sizes");
    const int64_t* position = positions->const_data_ptr<int64_t>();
    for (int64_t row = 0; row < positions->size(0); row++) {
      TORCH_CHECK(position[row] >= 0 && position[row] < k->size(2), "a position lies outside the keys");
    }
    attend(*q, *k, *v, *positions, scale, *out);
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  }
}
