// x W^T with both sides rounded to FP8 (e4m3) on the way in; gradients are those of the product of what was not rounded.

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

using tensor = at::Tensor*;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The largest number of e4m3.
constexpr double kLargest = 448.0;

struct Rounded {
  at::Tensor values;  // [rows, K] e4m3
  at::Tensor scale;   // [rows, 1] float32
};

// A power of two for each row, the smallest that brings its largest element within range: multiplying by it rounds nothing.
Rounded rounded(const at::Tensor& rows) {
  const auto largest = rows.abs().amax({-1}, /*keepdim=*/true).to(at::kFloat);
  const auto exponent = at::ceil(at::log2(largest / kLargest));
  // A row of zeros has no logarithm; and a scale's inverse must be a bfloat16 too.
  const auto scale = at::exp2(at::clamp(at::nan_to_num(exponent, 0.0, 0.0, 0.0), -100.0, 100.0));
  const auto values = rows.mul(scale.reciprocal().to(rows.scalar_type())).to(at::kFloat8_e4m3fn);
  return {values, scale};
}

// The same numbers without the hardware.
at::Tensor wide(const Rounded& of) { return of.values.to(at::kFloat).mul(of.scale); }

at::Tensor product(const at::Tensor& x, const at::Tensor& weight) {
  const auto a = rounded(x), b = rounded(weight);
  if (x.is_cuda()) {
    return at::_scaled_mm(a.values, b.values.t(), a.scale, b.scale.t(), /*bias=*/{}, /*scale_result=*/{}, x.scalar_type(),
                          /*use_fast_accum=*/false);
  }
  return wide(a).matmul(wide(b).t()).to(x.scalar_type());
}

// Rows of x [P, K] up to ends[e], from ends[e - 1] on, times weight [e, N, K].
at::Tensor grouped_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& ends) {
  const auto a = rounded(x), b = rounded(weight);
  if (x.is_cuda()) {
    return at::_scaled_grouped_mm(a.values, b.values.transpose(1, 2), a.scale.squeeze(-1), b.scale.squeeze(-1), ends, /*bias=*/{},
                                  /*scale_result=*/{}, x.scalar_type(), /*use_fast_accum=*/false);
  }
  return at::_grouped_mm(wide(a), wide(b).transpose(1, 2), ends).to(x.scalar_type());
}

struct Linear : torch::autograd::Function<Linear> {
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& weight) {
    context->save_for_backward({x, weight});
    return product(x, weight);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &gradient = gradients[0];
    at::Tensor of_x, of_weight;
    if (context->needs_input_grad(0)) of_x = gradient.matmul(weight);
    if (context->needs_input_grad(1)) of_weight = gradient.t().matmul(x);
    return {of_x, of_weight};
  }
};

struct Grouped : torch::autograd::Function<Grouped> {
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& weight, const Variable& ends) {
    context->save_for_backward({x, weight, ends});
    return grouped_product(x, weight, ends);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &ends = saved[2];
    const auto gradient = gradients[0].contiguous();
    at::Tensor of_x, of_weight;
    if (context->needs_input_grad(0)) of_x = at::_grouped_mm(gradient, weight, ends);
    if (context->needs_input_grad(1)) of_weight = at::_grouped_mm(gradient.t(), x, ends);
    return {of_x, of_weight, at::Tensor()};
  }
};

}  // namespace

extern "C" {

// `out` becomes the product of x [T, K] and weight [N, K], both bfloat16: [T, N].
char* r1d_fp8_linear(const at::Tensor* x, const at::Tensor* weight, tensor* out) {
  return guarded([&] { *out = new at::Tensor(Linear::apply(x->contiguous(), *weight)); });
}

// `out` becomes the products of x [P, K] and weight [E, N, K], expert by expert: rows up to ends[e] (int32 [E]) are expert e's.
char* r1d_fp8_grouped(const at::Tensor* x, const at::Tensor* weight, const at::Tensor* ends, tensor* out) {
  return guarded([&] { *out = new at::Tensor(Grouped::apply(x->contiguous(), *weight, *ends)); });
}

}  // extern "C"
