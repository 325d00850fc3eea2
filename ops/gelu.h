// GELU as plain functions, for ops that apply it inside.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/gelu_form.h"

namespace gigagpt::ops {

// x Phi(x), a new tensor.
at::Tensor apply_gelu(const at::Tensor& x, GeluForm form);

// The gradient dy (Phi(x) + x Phi'(x)), and x Phi(x) once more if wanted. dy has x's type.
struct GeluBackward {
  at::Tensor dx, y;
};
GeluBackward differentiate_gelu(const at::Tensor& x, const at::Tensor& dy, GeluForm form,
                                bool want_y);

}  // namespace gigagpt::ops
