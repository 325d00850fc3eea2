#include "ops/reference.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/random.h"

namespace gigagpt::ops::reference {

using at::Tensor;

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor y = at::matmul(x, weight.t());
  return bias.defined() ? y + bias : y;
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  const Tensor centred = x - x.mean(-1, true);
  const Tensor y = centred / (centred.square().mean(-1, true) + eps).sqrt() * weight;
  return bias.defined() ? y + bias : y;
}

Tensor embedding(const Tensor& tokens, const Tensor& wte, const Tensor& wpe,
                 int64_t first_position) {
  return at::embedding(wte, tokens) + wpe.narrow(0, first_position, tokens.size(1));
}

Tensor gelu(const Tensor& x, GeluForm form) {
  if (form == GeluForm::kTanh) {
    return x * 0.5 * (1 + at::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x.pow(3))));
  }
  return x * 0.5 * (1 + at::erf(x / std::sqrt(2.0)));
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionRule& rule) {
  const int64_t B = q.size(0), Tq = q.size(1), Tk = k.size(1), H = rule.heads;
  const auto wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto heads = [&](const Tensor& x) {  // B H T D
    return x.to(wide).view({B, x.size(1), H, x.size(2) / H}).transpose(1, 2);
  };
  Tensor mask = rule.mask;
  if (!mask.defined()) mask = at::full({Tq, Tk}, -INFINITY, wide).triu(1 + Tk - Tq);
  const double scale = 1 / std::sqrt(double(q.size(2)) / double(H));
  Tensor p = at::softmax(at::matmul(heads(q), heads(k).transpose(2, 3)) * scale + mask, -1);
  if (rule.dropout_p > 0) {
    const int64_t row = (Tk + 3) / 4 * 4;  // a row's words begin with a counter of their own
    p = p * dropout_factors({B, H, Tq, row}, rule.dropout_p, rule.key).narrow(3, 0, Tk);
  }
  return at::matmul(p, heads(v)).transpose(1, 2).reshape(q.sizes()).to(q.scalar_type());
}

Tensor cross_entropy(const Tensor& h, const Tensor& weight, const Tensor& labels) {
  const Tensor logits = at::matmul(h, weight.t());
  return (at::logsumexp(logits, -1) - logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)).mean();
}

Tensor dropout_factors(at::IntArrayRef sizes, double p, uint64_t key) {
  const Tensor factors = at::empty(sizes, at::kFloat);
  const auto threshold = static_cast<uint32_t>(p * 0x1p32);
  float* to = factors.data_ptr<float>();
  for (int64_t i = 0; i < factors.numel(); ++i) {
    const bool kept = philox(key, uint64_t(i) / 4)[size_t(i % 4)] >= threshold;
    to[i] = kept ? static_cast<float>(1.0 / (1.0 - p)) : 0.0F;
  }
  return factors;
}

}  // namespace gigagpt::ops::reference
