// The operations of ops/ops.h written out in plain ATen, for plain autograd: what the fast ones are
// tested against, in double as well, and what any attention mask but the causal one uses. Weights
// are plain tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/ops.h"

namespace gigagpt::ops::reference {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      double eps = 1e-5);
at::Tensor embedding(const at::Tensor& tokens, const at::Tensor& wte, const at::Tensor& wpe,
                     int64_t first_position = 0);
at::Tensor gelu(const at::Tensor& x, GeluForm form = GeluForm::kErf);
// q [B, Tq, C], k and v [B, Tk, C] -> [B, Tq, C]; an undefined mask lets query i see the keys up to
// i + Tk - Tq.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const AttentionRule& rule);
at::Tensor cross_entropy(const at::Tensor& h, const at::Tensor& weight, const at::Tensor& labels);
// What dropout multiplies the elements of a tensor of these sizes with, in fp32.
at::Tensor dropout_factors(at::IntArrayRef sizes, double p, uint64_t key);

}  // namespace gigagpt::ops::reference
