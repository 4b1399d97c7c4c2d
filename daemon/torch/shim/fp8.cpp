// x W^T with both sides rounded to FP8 (e4m3) on the way in. Gradients are those of the product of
// the rounded operands, computed in bfloat16, in which an e4m3 number times a power of two is
// exact; the rounding itself is passed straight through.

#include "guarded.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/_scaled_grouped_mm.h>
#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/ceil.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/log2.h>
#include <ATen/ops/nan_to_num.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

namespace {

using tensor = at::Tensor *;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The largest number of e4m3.
constexpr double kLargest = 448.0;

struct Rounded {
    at::Tensor values; // [rows, K] e4m3
    at::Tensor scale;  // [rows, 1] float32
};

// A power of two for each row, the smallest that brings its largest element within range:
// multiplying by it rounds nothing.
Rounded rounded(const at::Tensor &rows) {
    const auto largest = rows.abs().amax({-1}, /*keepdim=*/true).to(at::kFloat);
    const auto exponent = at::ceil(at::log2(largest / kLargest));
    // A row of zeros has no logarithm; and a scale's inverse must be a bfloat16 too.
    const auto scale = at::exp2(at::clamp(at::nan_to_num(exponent, 0.0, 0.0, 0.0), -100.0, 100.0));
    const auto values = rows.mul(scale.reciprocal().to(rows.scalar_type())).to(at::kFloat8_e4m3fn);
    return {values, scale};
}

// The same numbers in a wider dtype.
at::Tensor wide(const at::Tensor &values, const at::Tensor &scale, at::ScalarType dtype) {
    return values.to(dtype).mul(scale.to(dtype));
}

at::Tensor product(const Rounded &x, const Rounded &weight, at::ScalarType dtype) {
    if (x.values.is_cuda()) {
        return at::_scaled_mm(x.values, weight.values.t(), x.scale, weight.scale.t(), /*bias=*/{},
                              /*scale_result=*/{}, dtype,
                              /*use_fast_accum=*/false);
    }
    return wide(x.values, x.scale, at::kFloat)
        .matmul(wide(weight.values, weight.scale, at::kFloat).t())
        .to(dtype);
}

// Rows of x [P, K] up to ends[e], from ends[e - 1] on, times weight [e, N, K].
at::Tensor grouped_product(const Rounded &x, const Rounded &weight, const at::Tensor &ends,
                           at::ScalarType dtype) {
    if (x.values.is_cuda()) {
        return at::_scaled_grouped_mm(x.values, weight.values.transpose(1, 2), x.scale.squeeze(-1),
                                      weight.scale.squeeze(-1), ends,
                                      /*bias=*/{}, /*scale_result=*/{}, dtype,
                                      /*use_fast_accum=*/false);
    }
    const auto columns = wide(weight.values, weight.scale, at::kFloat).transpose(1, 2);
    return at::_grouped_mm(wide(x.values, x.scale, at::kFloat), columns, ends).to(dtype);
}

struct Linear : torch::autograd::Function<Linear> {
    static Variable forward(AutogradContext *context, const Variable &x, const Variable &weight) {
        const auto a = rounded(x), b = rounded(weight);
        context->save_for_backward({a.values, a.scale, b.values, b.scale});
        return product(a, b, x.scalar_type());
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto &gradient = gradients[0];
        at::Tensor of_x, of_weight;
        if (context->needs_input_grad(0))
            of_x = gradient.matmul(wide(saved[2], saved[3], gradient.scalar_type()));
        if (context->needs_input_grad(1))
            of_weight = gradient.t().matmul(wide(saved[0], saved[1], gradient.scalar_type()));
        return {of_x, of_weight};
    }
};

struct Grouped : torch::autograd::Function<Grouped> {
    static Variable forward(AutogradContext *context, const Variable &x, const Variable &weight,
                            const Variable &ends) {
        const auto a = rounded(x), b = rounded(weight);
        context->save_for_backward({a.values, a.scale, b.values, b.scale, ends});
        return grouped_product(a, b, ends, x.scalar_type());
    }

    static variable_list backward(AutogradContext *context, variable_list gradients) {
        const auto saved = context->get_saved_variables();
        const auto gradient = gradients[0].contiguous();
        const auto &ends = saved[4];
        at::Tensor of_x, of_weight;
        if (context->needs_input_grad(0))
            of_x =
                at::_grouped_mm(gradient, wide(saved[2], saved[3], gradient.scalar_type()), ends);
        if (context->needs_input_grad(1))
            of_weight = at::_grouped_mm(gradient.t(),
                                        wide(saved[0], saved[1], gradient.scalar_type()), ends);
        return {of_x, of_weight, at::Tensor()};
    }
};

} // namespace

extern "C" {

// `out` becomes the product of x [T, K] and weight [N, K], both bfloat16: [T, N].
char *r1d_fp8_linear(const at::Tensor *x, const at::Tensor *weight, tensor *out) {
    return guarded([&] { *out = new at::Tensor(Linear::apply(x->contiguous(), *weight)); });
}

// `out` becomes the products of x [P, K] and weight [E, N, K], expert by expert: rows up to ends[e]
// (int32 [E]) are expert e's.
char *r1d_fp8_grouped(const at::Tensor *x, const at::Tensor *weight, const at::Tensor *ends,
                      tensor *out) {
    return guarded([&] { *out = new at::Tensor(Grouped::apply(x->contiguous(), *weight, *ends)); });
}

} // extern "C"
