// Rotary positions against double precision.
#include <cmath>

#include "ops/ops.h"
#include "ops/reference_testing.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

const RopeRule kStretched{500000, 8, 1, 4, 64};

Op rope_op(const RopeRule& rule, const Tensor& positions) {
  return {[=](const Tensors& x, const Sums& /*none*/) { return rope(x[0], rule, positions); },
          [=](const Tensors& x) { return reference::rope(x[0], rule, positions); }};
}

// Two products of numbers of which one is rounded, and their sum: at most 3 u of either's size, in
// which no cosine is above 1.
Bounds bounds(const Tensor& x, const Tensor& dy) {
  const auto error = [](const Tensor& y) {
    const auto halves = f64(y).abs().chunk(2, -1);
    const Tensor size = (halves[0] + halves[1]) * (3 * kUnit32);
    return at::cat({size, size}, -1);
  };
  return {error(x), {error(dy)}};
}

TEST(Rope, ForwardAndGradientsMatchDouble) {
  Random random(1);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t D : {2, 6, 16, 64, 130}) {
      for (const RopeRule& rule : {RopeRule(), kStretched}) {
        const int64_t B = random.upto(3), T = random.upto(70), H = random.upto(3);
        const Tensor x = at::randn({B, T, H, D}).to(type), dy = at::randn({B, T, H, D}).to(type);
        Tensor positions;
        if (random.coin()) positions = at::randint(0, 500, {B, T}, at::kLong);
        check(rope_op(rule, positions), {x}, dy, 1, bounds(x, dy));
      }
    }
  }
}

// What attention sees of two tokens depends on their distance alone.
TEST(Rope, ScoresDependOnDistancesAlone) {
  at::manual_seed(2);
  const Tensor q = at::randn({1, 1, 1, 32}), k = at::randn({1, 1, 1, 32});
  const auto score = [&](int64_t query, int64_t key) {
    const auto at_place = [](const Tensor& x, int64_t place) {
      return f64(rope(x, {}, at::full({1, 1}, place, at::kLong)));
    };
    return (at_place(q, query) * at_place(k, key)).sum().item<double>();
  };
  const double size = f64(q).norm().item<double>() * f64(k).norm().item<double>();
  for (const int64_t shift : {1, 7, 900})
    EXPECT_NEAR(score(12 + shift, 5 + shift), score(12, 5), 8 * kUnit32 * size);
  EXPECT_GT(std::abs(score(12, 5) - score(12, 6)), 1e-4 * size);
}

// The tables of two rules, which take turns, are not mixed up.
TEST(Rope, LayersMayHaveRulesOfTheirOwn) {
  at::manual_seed(3);
  const Tensor x = at::randn({1, 9, 2, 8});
  const Tensor plain = rope(x, {}), stretched = rope(x, kStretched);
  EXPECT_FALSE(at::equal(plain, stretched));
  expect_same_bits(rope(x, {}), plain);
  expect_same_bits(rope(x.narrow(1, 0, 4), {}), plain.narrow(1, 0, 4));
}

}  // namespace
}  // namespace gigagpt::ops
