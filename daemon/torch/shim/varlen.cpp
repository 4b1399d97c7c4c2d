// Causal attention over whole sequences on a GPU: of various lengths without padding, and of one
// length.

#include "guarded.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_backward.h>
#include <ATen/ops/empty.h>

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

// q [B, H, L, d], k and v [B, Hk, L, d] -> out [B, H, L, d], and float32 lse [B, H, L], the
// logarithm of each query's normaliser.
extern "C" char *r1d_even_attention(tensor query, tensor key, tensor value, double scale,
                                    tensor *out, tensor *lse) {
    return guarded([&] {
        auto found = at::_scaled_dot_product_cudnn_attention(
            *query, *key, *value, /*attn_bias=*/std::nullopt, /*compute_log_sumexp=*/true,
            /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false,
            std::optional<double>(scale));
        auto rows = std::get<1>(found);
        if (rows.dim() == 4)
            rows = rows.squeeze(-1);
        *out = new at::Tensor(std::get<0>(found));
        *lse = new at::Tensor(rows.contiguous());
    });
}

// The gradients of q, k and v from that of out.
extern "C" char *r1d_even_attention_backward(tensor gradient, tensor query, tensor key,
                                             tensor value, tensor out, tensor lse, double scale,
                                             tensor *of_query, tensor *of_key, tensor *of_value) {
    return guarded([&] {
        // Dropout's random numbers, which nothing reads.
        const auto seed = at::empty({2}, query->options().dtype(at::kUInt64));
        auto found = at::_scaled_dot_product_flash_attention_backward(
            *gradient, *query, *key, *value, *out, *lse, /*cum_seq_q=*/{}, /*cum_seq_k=*/{},
            query->size(2), key->size(2), /*dropout_p=*/0.0, /*is_causal=*/true, seed, seed,
            std::optional<double>(scale));
        *of_query = new at::Tensor(std::get<0>(found));
        *of_key = new at::Tensor(std::get<1>(found));
        *of_value = new at::Tensor(std::get<2>(found));
    });
}
