// The operations of a transformer, differentiable. B T C H D V as in gpt/config.h.
//
// Activations that are multiplied have the dtype of the weight they meet (bf16 or fp32); sums,
// normalisation, softmax and the residual stream are fp32. Gradients of weights are always fp32
// (see ops/weight.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/weight.h"

namespace gigagpt::ops {

// x weight^T + bias. x [..., K], weight [N, K], bias [N] or undefined -> [..., N] of dtype `out`
// (default: the weight's).
at::Tensor linear(const at::Tensor& x, const Affine& w,
                  c10::optional<at::ScalarType> out = c10::nullopt);

// (x - mean) / sqrt(variance + eps) * weight + bias over the last dimension (Ba et al. 2016).
// x [..., C] fp32, weight and bias [C] -> [..., C] fp32.
at::Tensor layer_norm(const at::Tensor& x, const Affine& w, double eps = 1e-5);

// wte[token] + wpe[first_position + t]. tokens [B, T] int64, wte [V, C], wpe [P, C]
// -> [B, T, C] fp32.
at::Tensor embedding(const at::Tensor& tokens, const Weight& wte, const Weight& wpe,
                     int64_t first_position = 0);

// x Phi(x), the exact form with erf (Hendrycks and Gimpel 2016).
at::Tensor gelu(const at::Tensor& x);

// Zeroes each element with probability p and scales the rest by 1 / (1 - p). Which ones is a
// function of (key, element index) alone, so a recomputed layer drops the same ones. p = 0 returns
// x itself.
at::Tensor dropout(const at::Tensor& x, double p, uint64_t key);

// softmax(q k^T / sqrt(D) + mask) v per head, dropout on the probabilities. q [B, Tq, C],
// k and v [B, Tk, C] -> [B, Tq, C]. An undefined mask is the causal one, with the last query seeing
// every key; another must broadcast to [B, H, Tq, Tk] and is added as it is.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t heads,
                     const at::Tensor& mask, double dropout_p, uint64_t key);

// Mean negative log-likelihood of the labels. logits [N, V] fp32, labels [N] int64 -> scalar.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels);

}  // namespace gigagpt::ops
