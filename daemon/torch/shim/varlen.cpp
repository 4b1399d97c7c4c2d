// Causal attention over sequences of various lengths without padding, on a GPU.

#include "guarded.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward.h>

#include <cstdint>
#include <optional>

using tensor = at::Tensor *;

extern "C" char *r1d_varlen_attention(tensor query, tensor key, tensor value, tensor query_starts,
                                      tensor key_starts, int64_t longest_query,
                                      int64_t longest_key, double scale, tensor *out) {
    return guarded([&] {
        auto found = at::_flash_attention_forward(
            *query, *key, *value, *query_starts, *key_starts, longest_query, longest_key,
            /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false,
            std::optional<double>(scale));
        *out = new at::Tensor(std::get<0>(found));
    });
}
