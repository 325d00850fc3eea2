// The operations of a transformer, differentiable. B T C H D V as in gpt/config.h.
//
// Activations that are multiplied have the dtype of the weight they meet (bf16 or fp32); sums,
// normalisation, softmax and the residual stream are fp32. Gradients of weights are always fp32
// (see ops/weight.h). ops/reference.h and ops/reference_testing.h have each of them written out
// plainly.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/attention_rule.h"
#include "ops/gelu_form.h"
#include "ops/memory.h"
#include "ops/rope_rule.h"
#include "ops/weight.h"

namespace gigagpt::ops {

// x weight^T + bias. x [..., K], weight [N, K], bias [N] or undefined -> [..., N] of dtype `out`
// (default: the weight's).
at::Tensor linear(const at::Tensor& x, const Affine& w,
                  c10::optional<at::ScalarType> out = c10::nullopt);

// residual + dropout(x weight^T + bias), the end of a residual branch. residual [..., N] fp32
// -> fp32.
at::Tensor add_linear(const at::Tensor& residual, const at::Tensor& x, const Affine& w,
                      double dropout_p = 0.0, uint64_t key = 0);

// add_linear of gelu(x), which is not kept for the backward pass but made again.
at::Tensor add_gelu_linear(const at::Tensor& residual, const at::Tensor& x, const Affine& w,
                           GeluForm form, double dropout_p = 0.0, uint64_t key = 0);

// (x - mean) / sqrt(variance + eps) * weight + bias over the last dimension (Ba et al. 2016).
// x [..., C] fp32, weight and bias [C], bias possibly undefined -> [..., C] of dtype `out`.
at::Tensor layer_norm(const at::Tensor& x, const Affine& w, at::ScalarType out = at::kFloat,
                      double eps = 1e-5);

// x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019); otherwise
// as layer_norm.
at::Tensor rms_norm(const at::Tensor& x, const Affine& w, at::ScalarType out = at::kFloat,
                    double eps = 1e-5);

// The start of a residual branch: the norm of x, and x itself for its end. What comes back on the
// two ways is added in one pass.
struct Branch {
  at::Tensor residual;  // [..., C] fp32
  at::Tensor normal;    // [..., C] of dtype `out`
};
Branch branch(const at::Tensor& x, const Affine& w, at::ScalarType out, double eps = 1e-5);
Branch rms_branch(const at::Tensor& x, const Affine& w, at::ScalarType out, double eps = 1e-5);

// x sigmoid(x) u, SwiGLU's gate (Shazeer 2020). Of one shape and dtype.
at::Tensor silu_times(const at::Tensor& x, const at::Tensor& u);

// Rotary position embedding (ops/rope_rule.h).
// x [B, T, H, D], D even; positions [B, T] int64 (undefined: t).
at::Tensor rope(const at::Tensor& x, const RopeRule& rule, const at::Tensor& positions = {});

// wte[token] + wpe[position]. tokens and positions [B, T] int64 (undefined: t), wte [V, C], wpe
// [P, C] (undefined: nothing is added) -> [B, T, C] fp32.
at::Tensor embedding(const at::Tensor& tokens, const Weight& wte, const Weight& wpe = {},
                     const at::Tensor& positions = {});

// Zeroes each element with probability p and scales the rest by 1 / (1 - p). Which ones is a
// function of (key, element index) alone, so a recomputed layer drops the same ones. p = 0 returns
// x itself.
at::Tensor dropout(const at::Tensor& x, double p, uint64_t key);

// softmax(q k^T / sqrt(D)) v per head, or as the rule divides, over the keys that the rule lets
// each query see (Vaswani et al. 2017), without a T x T matrix (Dao et al. 2022). qkv [B, T, 3C] ->
// [B, T, C]. With a memory, the keys and values are appended to it and all in it are looked at; no
// gradients then.
at::Tensor attention(const at::Tensor& qkv, const AttentionRule& rule, Memory* memory = nullptr);
// With queries, keys and values apart: q [B, T, H, D], k and v [B, T, G, D], of which H / G heads
// of queries share each (Ainslie et al. 2023) -> [B, T, H D]. rule.heads is H.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const AttentionRule& rule, Memory* memory = nullptr);

// The label of a row that does not count.
constexpr int64_t kIgnoredLabel = -100;

// Mean negative log-likelihood of the labels that count under logits h weight^T, a chunk of rows at
// a time: all logits never exist together. 0 if none counts. h [..., C], weight [V, C], labels
// [...] int64 -> scalar.
at::Tensor cross_entropy(const at::Tensor& h, const Weight& weight, const at::Tensor& labels);

}  // namespace gigagpt::ops
