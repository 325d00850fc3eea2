#include "ops/reference.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/random.h"

namespace gigagpt::ops::reference {

using at::Tensor;

Tensor dense_mask(const AttentionRule& rule, int64_t B, int64_t Tq, int64_t Tk) {
  if (rule.is_causal()) return at::full({Tq, Tk}, -INFINITY, at::kDouble).triu(1 + Tk - Tq);
  const Tensor mask = at::full({B, 1, Tq, Tk}, -INFINITY, at::kDouble);
  double* to = mask.data_ptr<double>();
  for (int64_t row = 0; row < B; ++row) {
    for (int64_t i = 0; i < Tq; ++i) {
      const int64_t p = i + Tk - Tq;
      const int64_t document =
          rule.documents.defined() ? rule.documents[row][i].item<int64_t>() : 0;
      for (int64_t j = 0; j < Tk; ++j, ++to) {
        const bool seen = (j <= p || j < rule.prefix) &&
                          (rule.window == 0 || j > p - rule.window) && j >= document &&
                          (!rule.sees || rule.sees(row, p, j));
        if (seen) *to = 0;
      }
    }
  }
  return mask;
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionRule& rule) {
  const int64_t B = q.size(0), Tq = q.size(1), Tk = k.size(1), H = rule.heads;
  const auto wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t D = q.size(2) / H;
  const auto heads = [&](const Tensor& x) {  // B H T D
    const int64_t own = x.size(2) / D;
    const Tensor apart = x.to(wide).reshape({B, x.size(1), own, D}).transpose(1, 2);
    return own == H ? apart : apart.repeat_interleave(H / own, 1);
  };
  Tensor mask = rule.mask;
  if (!mask.defined()) mask = dense_mask(rule, B, Tq, Tk).to(wide);
  const double scale = 1 / (rule.over_size ? double(D) : std::sqrt(double(D)));
  Tensor p = at::softmax(at::matmul(heads(q), heads(k).transpose(2, 3)) * scale + mask, -1);
  if (rule.dropout_p > 0) {
    const int64_t row = (Tk + 3) / 4 * 4;  // a row's words begin with a counter of their own
    p = p * dropout_factors({B, H, Tq, row}, rule.dropout_p, rule.key).narrow(3, 0, Tk);
  }
  return at::matmul(p, heads(v)).transpose(1, 2).reshape(q.sizes()).to(q.scalar_type());
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
