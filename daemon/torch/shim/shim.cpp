// What tch does not bind of libtorch. C ABI; every function that can fail returns nullptr, or a
// malloc'ed message that the caller frees.

#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace {

// torch-sys hands out the same pointers.
using tensor = at::Tensor *;

std::vector<at::Tensor> list(const tensor *tensors, size_t count) {
    std::vector<at::Tensor> out;
    out.reserve(count);
    for (size_t i = 0; i < count; i++)
        out.push_back(*tensors[i]);
    return out;
}

} // namespace

extern "C" {

char *r1d_set_threads(int count) {
    return guarded([&] { at::set_num_threads(count); });
}

int r1d_threads() { return at::get_num_threads(); }

char *r1d_set_interop_threads(int count) {
    return guarded([&] { at::set_num_interop_threads(count); });
}

char *r1d_set_deterministic(bool on) {
    return guarded([&] {
        at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/true);
        // Filling fresh memory with NaN is a debugging aid that would cost a pass over every
        // allocation.
        at::globalContext().setDeterministicFillUninitializedMemory(false);
        // Its backward pass is not; with warn_only libtorch would choose it all the same.
        at::globalContext().setSDPUseCuDNN(!on);
    });
}

bool r1d_is_deterministic() { return at::globalContext().deterministicAlgorithms(); }

// Deterministic algorithms alone: which attention kernels may be chosen stays as it is. `before`:
// whether they were on.
char *r1d_switch_deterministic(bool on, bool *before) {
    return guarded([&] {
        *before = at::globalContext().deterministicAlgorithms();
        at::globalContext().setDeterministicAlgorithms(on, /*warn_only=*/true);
    });
}

// Where cuBLAS splits a product's sum, its parts are added in float32; by default they are rounded
// to the product's own dtype first.
char *r1d_sum_in_float32() {
    return guarded([&] {
        at::globalContext().setAllowBF16ReductionCuBLAS(false);
        at::globalContext().setAllowFP16ReductionCuBLAS(false);
    });
}

bool r1d_sums_in_float32() {
    auto narrow = at::CuBLASReductionOption::AllowReducedPrecisionWithSplitK;
    return at::globalContext().allowBF16ReductionCuBLAS() != narrow &&
           at::globalContext().allowFP16ReductionCuBLAS() != narrow;
}

// Calls `reached` when a backward pass has the gradient of `t`.
char *r1d_on_gradient(tensor t, void (*reached)()) {
    return guarded([&] { t->register_hook([reached](const at::Tensor &) { reached(); }); });
}

// Attention's backward pass on a GPU has a deterministic way, which libtorch takes only where it
// may also refuse an operation that has none.
char *r1d_backward(tensor loss) {
    return guarded([&] {
        struct Setting {
            at::Context &context = at::globalContext();
            const bool on = context.deterministicAlgorithms();
            const bool warn_only = context.deterministicAlgorithmsWarnOnly();
            ~Setting() { context.setDeterministicAlgorithms(on, warn_only); }
        } before;
        if (loss->is_cuda())
            before.context.setDeterministicAlgorithms(before.on, /*warn_only=*/false);
        loss->backward();
    });
}

bool r1d_is_recording() { return at::GradMode::is_enabled(); }

// False where the processor cannot.
bool r1d_set_flush_denormal(bool on) {
    try {
        return at::globalContext().setFlushDenormal(on);
    } catch (...) {
        return false;
    }
}

char *r1d_inference_enter(void **guard) {
    return guarded([&] { *guard = new c10::InferenceMode(true); });
}

void r1d_inference_leave(void *guard) { delete static_cast<c10::InferenceMode *>(guard); }

// Euclidean norm of all elements of all tensors, a float64 scalar on their device. It is
// accumulated in float64 on a GPU; on the CPU in float32, or in the tensors' own float64. Calls
// `grouped` behind each `group` of tensors, which is 1 at least.
char *r1d_global_norm(const tensor *tensors, size_t count, size_t group, void (*grouped)(),
                      tensor *norm) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        if (count == 0) {
            *norm = new at::Tensor(at::zeros({}, at::kDouble));
            return;
        }
        auto all = list(tensors, count);
        bool wide = all[0].is_cuda() || all[0].scalar_type() == at::kDouble;
        auto kind = wide ? at::kDouble : at::kFloat;
        std::vector<at::Tensor> norms;
        for (size_t start = 0; start < count; start += group) {
            auto end = std::min(start + group, count);
            auto some = at::_foreach_norm(at::TensorList(all).slice(start, end - start), 2, kind);
            norms.insert(norms.end(), some.begin(), some.end());
            grouped();
        }
        auto found = at::linalg_vector_norm(at::stack(norms), 2);
        *norm = new at::Tensor(found.to(at::kDouble));
    });
}

char *r1d_scale(const tensor *tensors, size_t count, double factor) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        if (count)
            at::_foreach_mul_(list(tensors, count), factor);
    });
}

char *r1d_copy(const tensor *destinations, const tensor *sources, size_t count) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        if (count)
            at::_foreach_copy_(list(destinations, count), list(sources, count));
    });
}

// Drops the gradients, so that the next backward pass moves its result in instead of adding to
// zeros.
char *r1d_clear_gradients(const tensor *tensors, size_t count) {
    return guarded([&] {
        for (size_t i = 0; i < count; i++)
            tensors[i]->mutable_grad().reset();
    });
}

// One step of AdamW on every parameter, in one pass over its memory. `steps[i]` must already count
// this update. Gradients are divided by `gradient_scale` (and stored so) where it is not null.
// Where `found_inf` is 1, nothing changes.
char *r1d_adamw(const tensor *parameters, const tensor *gradients, const tensor *exp_avg,
                const tensor *exp_avg_sq, const tensor *steps, size_t count, double lr,
                double beta1, double beta2, double weight_decay, double epsilon,
                tensor gradient_scale, tensor found_inf) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        if (count == 0)
            return;
        auto given = [](tensor of) {
            return of ? std::optional<at::Tensor>(*of) : std::nullopt;
        };
        at::_fused_adamw_(list(parameters, count), list(gradients, count), list(exp_avg, count),
                          list(exp_avg_sq, count),
                          /*max_exp_avg_sqs=*/{}, list(steps, count), lr, beta1, beta2,
                          weight_decay, epsilon,
                          /*amsgrad=*/false, /*maximize=*/false, given(gradient_scale),
                          given(found_inf));
    });
}

} // extern "C"
