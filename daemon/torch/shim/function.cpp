// Operations whose gradients are computed by the caller's own function.

#include "guarded.h"

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using tensor = at::Tensor *;

// Takes the gradients of the outputs, null where there is none, and leaves those of the inputs,
// null or a tensor that is the caller's. Returns nullptr or a message from malloc.
using gradient_function = char *(*)(void *state, const tensor *of_outputs, size_t outputs,
                                    tensor *of_inputs, size_t inputs);

struct Operation final : torch::autograd::Node {
    gradient_function gradient;
    void (*drop)(void *);
    void *state;
    size_t inputs;

    ~Operation() override { release(); }

    void release() {
        if (auto held = std::exchange(state, nullptr))
            drop(held);
    }

    void release_variables() override { release(); }

    torch::autograd::variable_list apply(torch::autograd::variable_list &&of_outputs) override {
        if (!state)
            throw std::runtime_error("a gradient is computed once, and this one was");
        std::vector<tensor> given, found(inputs, nullptr);
        for (auto &one : of_outputs)
            given.push_back(one.defined() ? &one : nullptr);
        auto message = gradient(state, given.data(), given.size(), found.data(), inputs);
        torch::autograd::variable_list of_inputs(inputs);
        for (size_t i = 0; i < inputs; i++)
            if (std::unique_ptr<at::Tensor> one{found[i]})
                of_inputs[i] = *one;
        if (message) {
            std::string text = message;
            std::free(message);
            throw std::runtime_error(text);
        }
        return of_inputs;
    }
};

} // namespace

extern "C" {

// Makes the outputs depend on the inputs: each is replaced by a tensor of the same memory whose
// gradients go through `gradient`. Without gradients they stay as they are. `state` is dropped
// once, when it is not needed any more.
char *r1d_differentiable(const tensor *inputs, size_t input_count, tensor *outputs,
                         size_t output_count, gradient_function gradient, void (*drop)(void *),
                         void *state) {
    return guarded([&] {
        std::shared_ptr<Operation> operation(new Operation(), torch::autograd::deleteNode);
        operation->gradient = gradient;
        operation->drop = drop;
        operation->state = state;
        operation->inputs = input_count;
        torch::autograd::variable_list all;
        bool wanted = false;
        for (size_t i = 0; i < input_count; i++) {
            all.push_back(*inputs[i]);
            wanted |= inputs[i]->requires_grad();
        }
        if (!wanted || !c10::GradMode::is_enabled())
            return;
        operation->set_next_edges(torch::autograd::collect_next_edges(all));
        for (size_t i = 0; i < output_count; i++) {
            at::Tensor output = outputs[i]->variable_data();
            torch::autograd::set_history(output, operation);
            *outputs[i] = output;
        }
    });
}

} // extern "C"
