// GELU and dropout as plain functions, for ops that apply them inside.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

#include "ops/gelu_form.h"

namespace gigagpt::ops {

// x Phi(x), a new tensor.
at::Tensor apply_gelu(const at::Tensor& x, GeluForm form);

// The gradient dy (Phi(x) + x Phi'(x)), and x Phi(x) once more. dy has x's type.
std::pair<at::Tensor, at::Tensor> differentiate_gelu(const at::Tensor& x, const at::Tensor& dy,
                                                     GeluForm form);

// A new tensor with each element of x zeroed with probability p, the rest divided by 1 - p.
at::Tensor drop(const at::Tensor& x, double p, uint64_t key);

}  // namespace gigagpt::ops
