// For tests and measurements only: the operations of ops/ops.h that no product code needs plainly,
// written out like those in ops/reference.h. Weights are plain tensors.
#pragma once

#include <ATen/ATen.h>

#include <cmath>

#include "ops/reference.h"

namespace gigagpt::ops::reference {

inline at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const at::Tensor y = at::matmul(x, weight.t());
  return bias.defined() ? y + bias : y;
}

inline at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                             double eps = 1e-5) {
  const at::Tensor centred = x - x.mean(-1, true);
  const at::Tensor y = centred / (centred.square().mean(-1, true) + eps).sqrt() * weight;
  return bias.defined() ? y + bias : y;
}

inline at::Tensor embedding(const at::Tensor& tokens, const at::Tensor& wte, const at::Tensor& wpe,
                            int64_t first_position = 0) {
  return at::embedding(wte, tokens) + wpe.narrow(0, first_position, tokens.size(1));
}

inline at::Tensor gelu(const at::Tensor& x, GeluForm form = GeluForm::kErf) {
  if (form == GeluForm::kTanh) {
    return x * 0.5 * (1 + at::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x.pow(3))));
  }
  return x * 0.5 * (1 + at::erf(x / std::sqrt(2.0)));
}

inline at::Tensor cross_entropy(const at::Tensor& h, const at::Tensor& weight,
                                const at::Tensor& labels) {
  const at::Tensor logits = at::matmul(h, weight.t());
  return (at::logsumexp(logits, -1) - logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)).mean();
}

}  // namespace gigagpt::ops::reference
