// Updates, norms and sampling.
#include "ops/optimizer.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "ops/optimizers/list.h"
#include "ops/sampling.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

// Built without OpenMP, at::parallel_for is silently a plain loop.
TEST(Threads, LoopsRunOnAllOfThem) {
  const ThreadCount count(2);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(seen.size(), 2U);
}

std::vector<float> draw_values(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

void update_one(const ParamState& state, const UpdateRule& rule, double lr, double grad_scale,
                int64_t step) {
  update(std::span(&state, 1), rule, lr, grad_scale, step);
}

// The parameter's arrays beside the formulas in double.
struct Beside {
  std::vector<float> w, m, v;
  std::vector<double> w64, m64, v64;
  at::Tensor compute;  // bf16

  Beside(size_t n, unsigned seed)
      : w(draw_values(n, seed)),
        m(n),
        v(n),
        w64(w.begin(), w.end()),
        m64(n),
        v64(n),
        compute(at::zeros({int64_t(n)}, at::kBFloat16)) {}

  void step(const std::vector<float>& g, const UpdateRule& rule, double lr, double scale, int t) {
    update_one({w, g, m, v, reinterpret_cast<kernels::Bf16*>(compute.data_ptr())}, rule, lr, scale,
               t);
    const auto& [b1, b2, epsilon, decay, _] = rule.numbers;
    for (size_t i = 0; i < w.size(); ++i) {
      const double gi = double(g[i]) * scale;
      const double mixed = b1 * m64[i] + (1 - b1) * gi;
      double direction = 0;
      if (rule.optimizer == &Sgd::kInfo) {
        direction = m64[i] = b1 * m64[i] + gi;
      } else if (rule.optimizer == &Lion::kInfo) {
        direction = mixed > 0 ? 1 : -1;
        m64[i] = b2 * m64[i] + (1 - b2) * gi;
      } else {
        m64[i] = mixed;
        v64[i] = b2 * v64[i] + (1 - b2) * gi * gi;
        direction = (m64[i] / (1 - std::pow(b1, t))) /
                    (std::sqrt(v64[i] / (1 - std::pow(b2, t))) + epsilon);
      }
      w64[i] -= lr * decay * w64[i] + lr * direction;
    }
    const at::Tensor master = at::from_blob(w.data(), {int64_t(w.size())}, at::kFloat);
    expect_same_bits(compute, master.to(at::kBFloat16));
  }
};

const std::vector<size_t> kLengths = {1, 7, 16, 33, 20001};  // the last for both threads

// Each step adds a handful of roundings to numbers of the size of the weight, the moments and the
// update (lr); 16 per step covers them.
TEST(Update, AdamWMatchesDoubleOverTenSteps) {
  for (const size_t n : kLengths) {
    Beside both(n, 1);
    const double lr = 0.01;
    for (int t = 1; t <= 10; ++t) both.step(draw_values(n, unsigned(100 + t)), {}, lr, 0.37, t);
    for (size_t i = 0; i < n; ++i) {
      ASSERT_NEAR(both.w[i], both.w64[i], 16 * 10 * kUnit32 * (std::abs(both.w64[i]) + lr)) << i;
    }
  }
}

// SGD's update is lr m with |m| below ten times the largest |g| of about 5 * 0.37.
TEST(Update, SgdMatchesDoubleOverTenSteps) {
  for (const size_t n : kLengths) {
    Beside both(n, 2);
    const UpdateRule rule{&Sgd::kInfo, {}};
    const double lr = 0.01;
    for (int t = 1; t <= 10; ++t) both.step(draw_values(n, unsigned(200 + t)), rule, lr, 0.37, t);
    for (size_t i = 0; i < n; ++i) {
      const double size = std::abs(both.w64[i]) + lr * 10 * 2;
      ASSERT_NEAR(both.w[i], both.w64[i], 16 * 10 * kUnit32 * size) << i;
      ASSERT_EQ(both.v[i], 0.0F) << "SGD leaves the second moment alone";
    }
  }
}

// Beside rounding, an average that is nothing but rounding could have the other sign: none is here.
TEST(Update, LionMatchesDoubleOverTenSteps) {
  for (const size_t n : kLengths) {
    Beside both(n, 3);
    const UpdateRule rule{&Lion::kInfo, {.beta2 = 0.99}};
    const double lr = 0.01;
    for (int t = 1; t <= 10; ++t) both.step(draw_values(n, unsigned(300 + t)), rule, lr, 0.37, t);
    for (size_t i = 0; i < n; ++i) {
      ASSERT_NEAR(both.w[i], both.w64[i], 16 * 10 * kUnit32 * (std::abs(both.w64[i]) + lr)) << i;
      ASSERT_EQ(both.v[i], 0.0F) << "Lion leaves the second moment alone";
    }
  }
}

TEST(Update, LionsDirectionIsZeroWhereNothingPulls) {
  std::vector<float> w = {1.0F, 1.0F}, g = {0.0F, -2.0F}, m = {0.0F, 0.0F};
  update_one({w, g, m, {}}, {&Lion::kInfo, {.weight_decay = 0}}, 0.25, 1.0, 1);
  EXPECT_EQ(w, (std::vector<float>{1.0F, 1.25F}));
}

// Each parameter takes its own part of the rate, the decay and epsilon.
TEST(Update, HasFactorsForEachParameter) {
  const OptimizerNumbers numbers{.epsilon = 1e-2, .weight_decay = 0.2};
  const ParamFactors factors{.rate = 0.5, .decay = 3, .epsilon = 10};
  std::vector<float> g = draw_values(100, 1), w = draw_values(100, 2), m(100), v(100);
  std::vector<float> w2 = w, m2(100), v2(100);
  update_one({w, g, m, v, nullptr, factors}, {.numbers = numbers}, 0.02, 1, 1);
  update_one({w2, g, m2, v2}, {.numbers = {.epsilon = 1e-1, .weight_decay = 0.6}}, 0.01, 1, 1);
  for (size_t i = 0; i < w.size(); ++i) EXPECT_FLOAT_EQ(w[i], w2[i]) << i;
}

TEST(Update, SgdHasMomentumAndDecoupledDecay) {
  std::vector<float> w = {1.0F}, g = {0.5F}, m = {2.0F};
  update_one({w, g, m, {}}, {&Sgd::kInfo, {}}, 0.1, 2.0, 1);
  EXPECT_FLOAT_EQ(m[0], 0.9F * 2.0F + 1.0F);
  EXPECT_FLOAT_EQ(w[0], 1.0F * 0.99F - 0.1F * 2.8F);
}

// The copy is rounded to nearest even, also halfway, at the ends of the range and for what is not
// finite.
TEST(Update, TheComputeCopyIsRoundedToNearestEven) {
  std::vector<float> w = {1.00390625F,   1.01171875F,   -1.00390625F, 1.5F,
                          3.3961776e38F, 3.4028235e38F, 1e-40F,       -1e-45F,
                          0.0F,          -0.0F,         INFINITY,     -INFINITY};
  w.resize(37, 1.01171875F);
  std::vector<float> g(w.size()), m(w.size()), v(w.size());
  const at::Tensor compute = at::empty({int64_t(w.size())}, at::kBFloat16);
  const at::Tensor expected =
      at::from_blob(w.data(), {int64_t(w.size())}, at::kFloat).to(at::kBFloat16);
  for (const Optimizer* optimizer : optimizers()) {
    if (optimizer->whole == Whole::kAll) continue;  // whose directions are made before
    update_one({w, g, m, v, reinterpret_cast<kernels::Bf16*>(compute.data_ptr())},
               {optimizer, {.weight_decay = 0}}, 0.01, 1.0, 1);
    expect_same_bits(compute, expected);
  }
}

// Several parameters at once, some of which do not decay, are what each is alone.
TEST(Update, OfManyParametersIsThatOfEach) {
  std::vector<Beside> together, alone;
  for (const size_t n : kLengths) {
    together.emplace_back(n, unsigned(n));
    alone.emplace_back(n, unsigned(n));
  }
  for (int t = 1; t <= 2; ++t) {
    std::vector<std::vector<float>> grads;
    std::vector<ParamState> states;
    for (size_t i = 0; i < together.size(); ++i) {
      grads.push_back(draw_values(kLengths[i], unsigned(t)));
      const double decays = i % 2 == 0 ? 1 : 0;
      states.push_back(
          {together[i].w, grads[i], together[i].m, together[i].v, nullptr, {.decay = decays}});
      alone[i].step(grads[i], {.numbers = {.weight_decay = 0.1 * decays}}, 0.01, 0.5, t);
    }
    update(states, {}, 0.01, 0.5, t);
    for (size_t i = 0; i < together.size(); ++i) EXPECT_EQ(together[i].w, alone[i].w) << i;
  }
}

TEST(Update, IsTheSameForAnyThreadCount) {
  const auto after = [](int threads) {
    const ThreadCount count(threads);
    Beside both(70001, 3);
    both.step(draw_values(70001, 4), {}, 0.01, 0.5, 1);
    return both.w;
  };
  EXPECT_EQ(after(1), after(3));
}

TEST(Update, WithoutLearningRateOnlyMomentsMove) {
  std::vector<float> w = {1.25F}, g = {0.5F}, m = {0.0F}, v = {0.0F};
  update_one({w, g, m, v}, {}, 0.0, 1.0, 1);
  EXPECT_EQ(w[0], 1.25F);
  EXPECT_GT(m[0], 0.0F);
  EXPECT_GT(v[0], 0.0F);
}

TEST(SumOfSquares, IsExactToDoubleAndTheSameForAnyThreadCount) {
  const auto values = draw_values(100003, 3);
  double sum = 0;
  for (const float v : values) sum += double(v) * double(v);
  const auto with_threads = [&](int threads) {
    const ThreadCount count(threads);
    return sum_of_squares(values);
  };
  const double one = with_threads(1), three = with_threads(3);
  EXPECT_EQ(one, three);
  EXPECT_NEAR(one, sum, 1e-10 * sum);
  EXPECT_EQ(sum_of_squares({}), 0.0);
  for (size_t n = 1; n < 40; ++n) {
    double squares = 0;
    for (const float v : std::span(values).first(n)) squares += double(v) * double(v);
    EXPECT_NEAR(sum_of_squares(std::span(values).first(n)), squares, 40 * 0x1p-53 * squares) << n;
  }
}

int32_t sample_copy(std::vector<float> logits, const std::vector<int32_t>& history,
                    const SamplingRule& rule, uint64_t key) {
  return sample(logits, history, rule, key);
}

TEST(Sample, ZeroTemperatureTakesTheMostLikely) {
  EXPECT_EQ(sample_copy({0, 3, 1, 3}, {}, {0.0, 0, 0}, 1), 1);
}

TEST(Sample, FollowsTheProbabilities) {
  const std::vector<float> logits = {0.0F, 1.0F, 2.0F, -1.0F};
  const double temperature = 0.8;
  double total = 0;
  for (const float l : logits) total += std::exp(l / temperature);
  const int n = 20000;
  std::vector<int> counts(4);
  for (int i = 0; i < n; ++i) {
    ++counts[size_t(sample_copy(logits, {}, {temperature, 0, 0}, uint64_t(i)))];
  }
  for (size_t i = 0; i < 4; ++i) {
    const double p = std::exp(logits[i] / temperature) / total;
    EXPECT_NEAR(counts[i], n * p, 5 * std::sqrt(n * p * (1 - p))) << i;
  }
}

TEST(Sample, TopKKeepsTheMostLikely) {
  for (uint64_t key = 0; key < 200; ++key) {
    const int32_t token = sample_copy({5, 1, 4, 0}, {}, {10.0, 2, 0}, key);
    EXPECT_TRUE(token == 0 || token == 2);
  }
}

TEST(Sample, ForbidsRepeatedNgrams) {
  // 1 2 3 has been; after ... 1 2 the 3 may not follow, however likely.
  const std::vector<float> logits = {0, 0, 0, 50};
  EXPECT_NE(sample_copy(logits, {1, 2, 3, 0, 1, 2}, {0.0, 0, 3}, 1), 3);
  EXPECT_EQ(sample_copy(logits, {1, 2, 3, 0, 2, 1}, {0.0, 0, 3}, 1), 3);
  EXPECT_EQ(sample_copy(logits, {1, 2, 3, 0, 1, 2}, {0.0, 0, 0}, 1), 3);
  // Where every token is forbidden, the rule gives way.
  EXPECT_EQ(sample_copy({1, 2}, {0, 1}, {0.0, 0, 1}, 1), 1);
}

}  // namespace
}  // namespace gigagpt::ops
