// Attention against double precision.
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "ops/dropout.h"
#include "ops/kv_cache.h"
#include "ops/ops.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

// Attention written out in double with autograd.
Tensor attention64(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, Tensor mask) {
  const auto split = [&](const Tensor& x) {
    return x.view({x.size(0), x.size(1), heads, -1}).transpose(1, 2);
  };
  const int64_t Tq = q.size(1), Tk = k.size(1);
  if (!mask.defined()) {
    mask = at::full({Tq, Tk}, -INFINITY, at::kDouble).triu(1 + Tk - Tq);
  }
  const double scale = 1 / std::sqrt(double(q.size(2) / heads));
  const Tensor p = at::softmax(at::matmul(split(q), split(k).transpose(-1, -2)) * scale + mask, -1);
  return at::matmul(p, split(v)).transpose(1, 2).reshape(q.sizes());
}

// Rounding of scores of magnitude S moves probabilities by a relative 2 S D u at most, and each of
// the three chained products adds its own few roundings: in all C (T + D) u times the magnitudes,
// which are O(1) here; C = 16 covers the constants. In bf16 the inputs of each product are rounded
// to 2^-8, 4 of which meet in a gradient.
void check_attention(at::ScalarType type, int64_t B, int64_t T, int64_t H, int64_t D) {
  const int64_t C = H * D;
  std::vector<Tensor> inputs, inputs64;
  for (int i = 0; i < 3; ++i) {
    inputs.push_back((at::randn({B, T, C}) * 0.7).to(type).requires_grad_(true));
    inputs64.push_back(f64(inputs.back()).requires_grad_(true));
  }
  const Tensor dy = at::randn({B, T, C}).to(type);
  const Tensor y = attention(inputs[0], inputs[1], inputs[2], H, {}, 0.0, 0);
  const Tensor y64 = attention64(inputs64[0], inputs64[1], inputs64[2], H, {});
  const auto grads = torch::autograd::grad({y}, inputs, {dy});
  const auto grads64 = torch::autograd::grad({y64}, inputs64, {f64(dy)});
  const double unit = type == at::kFloat ? 16 * double(T + D) * kUnit32 : 4 * kUnitBf16;
  expect_close(y, y64, unit * std::max(1.0, y64.abs().max().item<double>()));
  for (int i = 0; i < 3; ++i) {
    expect_close(grads[i], grads64[i], unit * std::max(1.0, grads64[i].abs().max().item<double>()));
  }
}

TEST(Attention, ForwardAndGradientsMatchDouble) {
  at::manual_seed(4);
  for (const auto& [B, T, H, D] : std::vector<std::array<int64_t, 4>>{
           {1, 1, 1, 16}, {2, 7, 3, 5}, {1, 65, 2, 64}, {3, 33, 4, 8}, {1, 40, 1, 256}}) {
    check_attention(at::kFloat, B, T, H, D);
    check_attention(at::kBFloat16, B, T, H, D);
  }
}

// Dropout on the probabilities: the truth uses the very same drawn factors.
TEST(Attention, DropoutForwardAndGradientsMatchDouble) {
  at::manual_seed(7);
  const int64_t B = 2, T = 9, H = 3, C = 15;
  std::vector<Tensor> inputs, inputs64;
  for (int i = 0; i < 3; ++i) {
    inputs.push_back(at::randn({B, T, C}).requires_grad_(true));
    inputs64.push_back(f64(inputs.back()).requires_grad_(true));
  }
  const Tensor dy = at::randn({B, T, C});
  const Tensor factors = f64(drop(at::ones({B, H, T, T}), 0.4, 99));
  const auto split = [&](const Tensor& x) { return x.view({B, T, H, C / H}).transpose(1, 2); };
  const Tensor scores = at::matmul(split(inputs64[0]), split(inputs64[1]).transpose(-1, -2)) /
                        std::sqrt(double(C / H));
  const Tensor p = at::softmax(scores + at::full({T, T}, -INFINITY, at::kDouble).triu(1), -1);
  const Tensor y64 = at::matmul(p * factors, split(inputs64[2])).transpose(1, 2).reshape({B, T, C});
  const auto truth = torch::autograd::grad({y64}, inputs64, {f64(dy)});
  const Tensor y = attention(inputs[0], inputs[1], inputs[2], H, {}, 0.4, 99);
  const auto grads = torch::autograd::grad({y}, inputs, {dy});
  const double unit = 16 * double(T + C) * kUnit32;
  expect_close(y, y64, unit * std::max(1.0, y64.abs().max().item<double>()));
  for (int i = 0; i < 3; ++i) {
    expect_close(grads[i], truth[i], unit * std::max(1.0, truth[i].abs().max().item<double>()));
  }
}

// 2000 x 2000 scores of 5 heads do not fit in one chunk of 2^24.
TEST(Attention, ChunksOfHeadsGiveWhatEachHeadGivesAlone) {
  at::manual_seed(8);
  const int64_t B = 2, T = 2000, H = 5, D = 4;
  const Tensor q = at::randn({B, T, H * D}), k = at::randn({B, T, H * D}),
               v = at::randn({B, T, H * D});
  const Tensor y = attention(q, k, v, H, {}, 0.3, 5);
  const Tensor mask = at::full({T, T}, -INFINITY).triu(1);
  expect_close(attention(q, k, v, H, mask, 0.3, 5), y, 1e-6);
  const std::vector<Tensor> inputs = {q.detach().requires_grad_(true),
                                      k.detach().requires_grad_(true),
                                      v.detach().requires_grad_(true)};
  const Tensor dy = at::randn({B, T, H * D});
  const Tensor together = attention(inputs[0], inputs[1], inputs[2], H, {}, 0.0, 0);
  const auto grads = torch::autograd::grad({together}, inputs, {dy});
  for (const int64_t h : {0, 3, 4}) {
    const auto head = [&](const Tensor& x) { return x.detach().narrow(2, h * D, D).contiguous(); };
    std::vector<Tensor> own;
    for (const Tensor& x : inputs) own.push_back(head(x).requires_grad_(true));
    const Tensor alone = attention(own[0], own[1], own[2], 1, {}, 0.0, 0);
    const auto own_grads = torch::autograd::grad({alone}, own, {head(dy)});
    const double unit = 16 * double(T) * kUnit32;
    expect_close(head(together), alone, unit);
    for (size_t i = 0; i < 3; ++i) expect_close(head(grads[i]), own_grads[i], unit);
  }
}

TEST(Attention, DoesNotLookAhead) {
  const Tensor q = at::randn({1, 6, 8}), k = at::randn({1, 6, 8}), v = at::randn({1, 6, 8});
  const Tensor y = attention(q, k, v, 2, {}, 0.0, 0);
  Tensor k2 = k.clone(), v2 = v.clone();
  k2[0][5] += 3;
  v2[0][5] += 3;
  const Tensor y2 = attention(q, k2, v2, 2, {}, 0.0, 0);
  expect_same_bits(y2.narrow(1, 0, 5), y.narrow(1, 0, 5));
  EXPECT_FALSE(at::equal(y2, y));
}

TEST(Attention, AddsAnyMask) {
  at::manual_seed(5);
  const Tensor q = at::randn({2, 5, 6}), k = at::randn({2, 5, 6}), v = at::randn({2, 5, 6});
  const Tensor mask = at::randn({2, 1, 5, 5});
  expect_close(attention(q, k, v, 2, mask, 0.0, 0),
               attention64(f64(q), f64(k), f64(v), 2, f64(mask)), 16 * 10 * kUnit32 * 8);
}

TEST(KVCache, ContinuingEqualsComputingAtOnce) {
  at::manual_seed(6);
  const Tensor q = at::randn({1, 9, 8}), k = at::randn({1, 9, 8}), v = at::randn({1, 9, 8});
  const Tensor whole = attention(q, k, v, 2, {}, 0.0, 0);
  KVCache cache(9);
  for (const auto& [from, count] : {std::pair<int64_t, int64_t>{0, 5}, {5, 1}, {6, 3}}) {
    const auto past = cache.append(k.narrow(1, from, count), v.narrow(1, from, count));
    const Tensor part = attention(q.narrow(1, from, count), past.k, past.v, 2, {}, 0.0, 0);
    expect_close(part, whole.narrow(1, from, count), 16 * 13 * kUnit32 * 4);
  }
  EXPECT_EQ(cache.length(), 9);
}

}  // namespace
}  // namespace gigagpt::ops
