// How the ops' backward passes hand over the gradients of weights (see ops/weight.h).
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

namespace gigagpt::ops {

// The accumulators of an op's one or two weights.
struct Gradients {
  std::array<at::Tensor, 2> accumulators;
};

inline void save(torch::autograd::AutogradContext* ctx, const Gradients& grads) {
  ctx->saved_data["grad0"] = grads.accumulators[0];
  ctx->saved_data["grad1"] = grads.accumulators[1];
}

// The accumulator of weight `index`, undefined if autograd is to carry the gradient.
inline at::Tensor accumulator(torch::autograd::AutogradContext* ctx, int index) {
  return ctx->saved_data[index == 0 ? "grad0" : "grad1"].toTensor();
}

// Adds the finished gradient to the accumulator; without one, returns it for autograd.
inline at::Tensor deliver(torch::autograd::AutogradContext* ctx, int index,
                          const at::Tensor& gradient) {
  at::Tensor sum = accumulator(ctx, index);
  if (!sum.defined() || !gradient.defined()) return gradient;
  sum.add_(gradient);
  return {};
}

}  // namespace gigagpt::ops
