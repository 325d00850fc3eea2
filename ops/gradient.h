// How the ops' backward passes hand over the gradients of weights (see ops/weight.h).
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/weight.h"

namespace gigagpt::ops {

// Throws Error if only rows of the gradient are added up, as ParamRule::looked_up says.
void check_dense(const GradientSum& sum);
// Where a gradient can be added now: the sum, or while an op works in it, one that is added later.
GradientSum& open_sum(GradientSum& sum);
// sum (+)= scale * gradient, multiplied first and then added: the bits that autograd would give.
void add_gradient(GradientSum& to, const at::Tensor& gradient, double scale = 1.0);
// Makes an empty sum zero.
void fill_gradient(GradientSum& sum);
// Adds a finished gradient to its sum; without a sum, returns it for autograd.
at::Tensor deliver(GradientSum* sum, const at::Tensor& gradient);

// Tells whoever asked the weight for it how large the elements of y are, which was made with it.
void note_magnitude(const Weight& weight, const at::Tensor& y);

}  // namespace gigagpt::ops
