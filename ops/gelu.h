// GELU as plain functions, for ops that apply it inside.
#pragma once

#include <ATen/core/Tensor.h>

namespace gigagpt::ops {

// x Phi(x), a new tensor.
at::Tensor apply_gelu(const at::Tensor& x);

// The gradient dy (Phi(x) + x phi(x)), and x Phi(x) once more if wanted. dy has x's type.
struct GeluBackward {
  at::Tensor dx, y;
};
GeluBackward differentiate_gelu(const at::Tensor& x, const at::Tensor& dy, bool want_y);

}  // namespace gigagpt::ops
