// A parameter as the ops see it.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "ops/row_sums.h"

namespace gigagpt::ops {

// A parameter's gradient as the micro-batches of a step add up. The first one overwrites what is in
// memory, so nobody has to clear it.
struct GradientSum {
  enum State {
    kEmpty,   // whatever `sum` holds counts nothing
    kLent,    // an op works in `sum`, from its forward pass to its backward pass
    kFilled,  // `sum` is the gradient so far
  };
  at::Tensor sum;  // fp32, in the parameter's shape
  State state = kEmpty;
  std::unique_ptr<RowSums> rows = nullptr;           // instead of `sum`, for an embedding's own use
  std::unique_ptr<GradientSum> meanwhile = nullptr;  // what others add to a sum that is lent
};

// `value` is what is multiplied: bf16 or fp32 matrices, fp32 vectors. It does not own its memory
// and is valid for one visit to its layer. With `grad`, the backward pass of an op adds the
// parameter's gradient to it, once per use, and autograd sees none; without, the gradient goes
// through autograd as usual.
struct Weight {
  at::Tensor value;
  GradientSum* grad = nullptr;  // not owned
  // Of what linear layers (a bias included), embeddings and the cross-entropy make with it.
  double multiplier = 1;
  // Gets the mean magnitude of what a linear layer or an embedding makes with it, unless null.
  double* mean_magnitude = nullptr;

  bool defined() const { return value.defined(); }
};

// The two weights of a linear layer or a layer norm; the bias may be undefined.
struct Affine {
  Weight weight;
  Weight bias;
};

}  // namespace gigagpt::ops
