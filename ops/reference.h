// Operations of ops/ops.h written out in plain ATen, for plain autograd: what the fast ones are
// tested against, in double as well. Here are those that any attention mask but the causal one
// uses; ops/reference_testing.h has the others.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/ops.h"

namespace gigagpt::ops::reference {

// What the rule says without its own mask, as one: 0 or -inf, [B, 1, Tq, Tk] or [Tq, Tk] in double.
at::Tensor dense_mask(const AttentionRule& rule, int64_t B, int64_t Tq, int64_t Tk);
// q [B, Tq, H D], k and v [B, Tk, G D] -> [B, Tq, H D].
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const AttentionRule& rule);
// What dropout multiplies the elements of a tensor of these sizes with, in fp32.
at::Tensor dropout_factors(at::IntArrayRef sizes, double p, uint64_t key);

}  // namespace gigagpt::ops::reference
