// Products: gemm and linear layers against double precision.
#include <torch/csrc/autograd/autograd.h>

#include <random>

#include "ops/gemm.h"
#include "ops/ops.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

TEST(Gemm, MatchesDoubleOnRandomShapesStridesAndTypes) {
  std::mt19937 random(1);
  const auto extent = [&](int64_t most) { return int64_t(1 + random() % size_t(most)); };
  at::manual_seed(1);
  for (int trial = 0; trial < 60; ++trial) {
    const auto type = trial % 2 == 0 ? at::kFloat : at::kBFloat16;
    const auto out = trial % 3 == 0 ? type : at::kFloat;
    const int64_t M = extent(70), K = extent(200), N = extent(70), batch = extent(3);
    Tensor a = at::randn({batch, M, K}).to(type), b = at::randn({batch, K, N}).to(type);
    if (random() % 2 == 0) a = at::randn({batch, K, M}).to(type).transpose(1, 2);
    if (random() % 2 == 0) b = at::randn({batch, N, K}).to(type).transpose(1, 2);
    if (batch == 1) a = a[0], b = b[0];
    auto sizes = a.sizes().vec();
    sizes.back() = N;
    const Tensor c = at::full(sizes, 7.0, out);
    const Tensor bias = trial % 4 < 2 ? at::randn({N}) : Tensor();
    gemm(a, b, c, bias);
    Tensor expected = at::matmul(f64(a), f64(b));
    Tensor bound = product_bound(a, b, out);
    if (bias.defined()) {
      expected = expected + f64(bias);
      bound = bound + f64(bias).abs() * (double(K + 1) * kUnit32 + kUnitBf16);
    }
    expect_close(c, expected, bound);
  }
}

TEST(Gemm, IsBitIdenticalFromRunToRun) {
  const Tensor a = at::randn({130, 70}), b = at::randn({70, 90});
  const Tensor c = at::empty({130, 90}), d = at::empty({130, 90});
  gemm(a, b, c);
  gemm(a, b, d);
  expect_same_bits(c, d);
}

struct LinearCase {
  at::ScalarType type, out;
  bool bias;
};

// The truth is autograd in double on the same (already rounded) operands. In bf16 dy and x are
// rounded to bf16 on the way in, which adds 2^-8 of the product of magnitudes.
void check_linear(const LinearCase& c, int64_t R, int64_t K, int64_t N) {
  const Tensor x = at::randn({R, K}).to(c.type).to(at::kFloat).requires_grad_(true);
  const Tensor weight = at::randn({N, K}).to(c.type).requires_grad_(true);
  const Tensor bias = c.bias ? at::randn({N}).requires_grad_(true) : Tensor();
  const Affine w{{weight, at::zeros({N, K})}, {bias, c.bias ? at::zeros({N}) : Tensor()}};
  const Tensor y = linear(x, w, c.out);
  EXPECT_EQ(y.scalar_type(), c.out);
  const Tensor dy = at::randn({R, N}).to(at::kBFloat16).to(c.out);
  const auto grads = torch::autograd::grad({y}, {x, weight}, {dy}, false, false, true);
  const Tensor bias64 = c.bias ? f64(bias) : at::zeros({N}, at::kDouble);
  Tensor bound = product_bound(x, weight.t(), c.out) +
                 bias64.abs() * (double(K) * kUnit32 + (c.out == at::kBFloat16 ? kUnitBf16 : 0));
  expect_close(y, at::matmul(f64(x), f64(weight).t()) + bias64, bound);
  expect_close(grads[0], at::matmul(f64(dy), f64(weight)), product_bound(dy, weight, at::kFloat));
  EXPECT_FALSE(grads[1].defined()) << "delivered to the accumulator instead";
  expect_close(w.weight.grad, at::matmul(f64(dy).t(), f64(x)),
               product_bound(dy.t(), x, at::kFloat));
  if (c.bias) {
    expect_close(w.bias.grad, f64(dy).sum(0), f64(dy).abs().sum(0) * double(R) * kUnit32);
  }
}

TEST(Linear, ForwardAndGradientsMatchDouble) {
  at::manual_seed(2);
  for (const auto& [R, K, N] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {1, 7, 5}, {65, 20, 60}, {33, 129, 31}, {200, 64, 256}}) {
    check_linear({at::kFloat, at::kFloat, true}, R, K, N);
    check_linear({at::kFloat, at::kFloat, false}, R, K, N);
    check_linear({at::kBFloat16, at::kFloat, true}, R, K, N);
    check_linear({at::kBFloat16, at::kBFloat16, false}, R, K, N);
  }
}

TEST(Linear, AccumulatorsGetTheBitsThatAutogradWouldCarry) {
  at::manual_seed(3);
  const Tensor x = at::randn({2, 9, 12}), dy = at::randn({2, 9, 8});
  const Tensor weight = at::randn({8, 12}).requires_grad_(true);
  const Tensor bias = at::randn({8}).requires_grad_(true);
  const auto plain =
      torch::autograd::grad({linear(x, {{weight, {}}, {bias, {}}})}, {weight, bias}, {dy});
  const Affine w{{weight, at::zeros({8, 12})}, {bias, at::zeros({8})}};
  for (int use = 1; use <= 2; ++use) {
    torch::autograd::grad({linear(x, w)}, {weight, bias}, {dy}, false, false, true);
    expect_same_bits(w.weight.grad, plain[0] * use);
    expect_same_bits(w.bias.grad, plain[1] * use);
  }
}

}  // namespace
}  // namespace gigagpt::ops
