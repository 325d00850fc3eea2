// A parameter as the ops see it.
#pragma once

#include <ATen/core/Tensor.h>

namespace gigagpt::ops {

// `value` is what is multiplied: bf16 or fp32 matrices, fp32 vectors. It does not own its memory
// and is valid for one visit to its layer. When `grad` (fp32, same shape) is defined, the backward
// pass of an op adds the parameter's gradient to it, once per use, and autograd sees none; when it
// is not, the gradient goes through autograd as usual.
struct Weight {
  at::Tensor value;
  at::Tensor grad;

  bool defined() const { return value.defined(); }
};

// The two weights of a linear layer or a layer norm; the bias may be undefined.
struct Affine {
  Weight weight;
  Weight bias;
};

}  // namespace gigagpt::ops
