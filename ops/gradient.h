// How the ops' backward passes hand over the gradients of weights (see ops/weight.h).
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

#include "ops/weight.h"

namespace gigagpt::ops {

// sum (+)= scale * gradient, multiplied first and then added: the bits that autograd would give.
void add_gradient(GradientSum& to, const at::Tensor& gradient, double scale = 1.0);
// Makes an empty sum zero.
void fill_gradient(GradientSum& sum);

// The sums of an op's one or two weights; null: autograd is to carry the gradient.
using Gradients = std::array<GradientSum*, 2>;

inline void save(torch::autograd::AutogradContext* ctx, const Gradients& grads) {
  ctx->saved_data["grad0"] = reinterpret_cast<int64_t>(grads[0]);
  ctx->saved_data["grad1"] = reinterpret_cast<int64_t>(grads[1]);
}

inline GradientSum* gradient_sum(torch::autograd::AutogradContext* ctx, int index) {
  return reinterpret_cast<GradientSum*>(ctx->saved_data[index == 0 ? "grad0" : "grad1"].toInt());
}

// Adds the finished gradient to its sum; without one, returns it for autograd.
inline at::Tensor deliver(torch::autograd::AutogradContext* ctx, int index,
                          const at::Tensor& gradient) {
  GradientSum* sum = gradient_sum(ctx, index);
  if (sum == nullptr || !gradient.defined()) return gradient;
  add_gradient(*sum, gradient);
  return {};
}

}  // namespace gigagpt::ops
