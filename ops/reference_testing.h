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

inline at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps = 1e-5) {
  return x / (x.square().mean(-1, true) + eps).sqrt() * weight;
}

inline at::Tensor silu_times(const at::Tensor& x, const at::Tensor& u) {
  return x * at::sigmoid(x) * u;
}

// x [B, T, H, D]. Frequencies as in transformers' modeling_rope_utils.py.
inline at::Tensor rope(const at::Tensor& x, const RopeRule& rule,
                       const at::Tensor& positions = {}) {
  const int64_t D = x.size(3);
  const at::Tensor plain =
      at::pow(rule.theta, at::arange(0, D, 2, at::kDouble) * (-1.0 / double(D)));
  const at::Tensor wavelengths = 2 * M_PI / plain;
  const double all = double(rule.original_positions);
  const double low = rule.low_frequency_factor, high = rule.high_frequency_factor;
  const at::Tensor share = (all / wavelengths - low) / (high - low);
  const at::Tensor smooth = (1 - share) * plain / rule.factor + share * plain;
  const at::Tensor scaled = at::where(wavelengths > all / low, plain / rule.factor,
                                      at::where(wavelengths < all / high, plain, smooth));
  const at::Tensor places = positions.defined() ? positions : at::arange(x.size(1)).unsqueeze(0);
  const at::Tensor angles = places.to(at::kDouble).unsqueeze(-1) * scaled;  // B T D/2
  const at::Tensor c = angles.cos().unsqueeze(2), s = angles.sin().unsqueeze(2);
  const auto halves = x.chunk(2, -1);
  return at::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, -1);
}

inline at::Tensor embedding(const at::Tensor& tokens, const at::Tensor& wte, const at::Tensor& wpe,
                            const at::Tensor& positions = {}) {
  return at::embedding(wte, tokens) +
         at::embedding(wpe, positions.defined() ? positions : at::arange(tokens.size(1)));
}

inline at::Tensor gelu(const at::Tensor& x, GeluForm form = GeluForm::kErf) {
  if (form == GeluForm::kTanh) {
    return x * 0.5 * (1 + at::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x.pow(3))));
  }
  return x * 0.5 * (1 + at::erf(x / std::sqrt(2.0)));
}

inline at::Tensor cross_entropy(const at::Tensor& h, const at::Tensor& weight,
                                const at::Tensor& labels) {
  const at::Tensor counts = labels != kIgnoredLabel;
  const at::Tensor logits = at::matmul(h, weight.t()), known = labels.clamp_min(0).unsqueeze(-1);
  const at::Tensor losses = at::logsumexp(logits, -1) - logits.gather(-1, known).squeeze(-1);
  return losses.masked_fill(~counts, 0).sum() / counts.sum().clamp_min(1);
}

}  // namespace gigagpt::ops::reference
