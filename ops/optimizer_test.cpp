// Updates, norms and sampling.
#include "ops/optimizer.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "ops/sampling.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

// Built without OpenMP, at::parallel_for is silently a plain loop.
TEST(Threads, LoopsRunOnAllOfThem) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  at::set_num_threads(threads);
  EXPECT_EQ(seen.size(), 2U);
}

std::vector<float> draw(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

// Ten steps beside the formulas in double. Each step adds a handful of roundings to numbers of the
// size of the weight, the moments and the update (lr); 16 per step covers them.
TEST(Update, AdamWMatchesDoubleOverTenSteps) {
  const size_t n = 20001;
  auto w = draw(n, 1);
  std::vector<float> m(n), v(n);
  std::vector<double> w64(w.begin(), w.end()), m64(n), v64(n);
  const UpdateRule rule{false, 0.9, 0.95, 1e-8, 0.1};
  const double lr = 0.01, scale = 0.37;
  for (int t = 1; t <= 10; ++t) {
    auto g = draw(n, unsigned(100 + t));
    update({w, g, m, v}, rule, lr, scale, t);
    for (size_t i = 0; i < n; ++i) {
      const double gi = double(g[i]) * scale;
      w64[i] -= lr * 0.1 * w64[i];
      m64[i] = 0.9 * m64[i] + 0.1 * gi;
      v64[i] = 0.95 * v64[i] + 0.05 * gi * gi;
      const double m_hat = m64[i] / (1 - std::pow(0.9, t));
      const double v_hat = v64[i] / (1 - std::pow(0.95, t));
      w64[i] -= lr * m_hat / (std::sqrt(v_hat) + 1e-8);
    }
  }
  for (size_t i = 0; i < n; ++i) {
    const double bound = 16 * 10 * kUnit32 * (std::abs(w64[i]) + lr);
    ASSERT_NEAR(w[i], w64[i], bound) << i;
  }
}

TEST(Update, SgdHasMomentumAndDecoupledDecay) {
  std::vector<float> w = {1.0F}, g = {0.5F}, m = {2.0F};
  update({w, g, m, {}}, {true, 0.9, 0, 0, 0.1}, 0.1, 2.0, 1);
  EXPECT_FLOAT_EQ(m[0], 0.9F * 2.0F + 1.0F);
  EXPECT_FLOAT_EQ(w[0], 1.0F * 0.99F - 0.1F * 2.8F);
}

TEST(Update, WithoutLearningRateOnlyMomentsMove) {
  std::vector<float> w = {1.25F}, g = {0.5F}, m = {0.0F}, v = {0.0F};
  update({w, g, m, v}, {}, 0.0, 1.0, 1);
  EXPECT_EQ(w[0], 1.25F);
  EXPECT_GT(m[0], 0.0F);
  EXPECT_GT(v[0], 0.0F);
}

TEST(SumOfSquares, IsExactToDoubleAndTheSameForAnyThreadCount) {
  const auto values = draw(100003, 3);
  double sum = 0;
  for (const float v : values) sum += double(v) * double(v);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double one = sum_of_squares(values);
  at::set_num_threads(3);
  const double three = sum_of_squares(values);
  at::set_num_threads(threads);
  EXPECT_EQ(one, three);
  EXPECT_NEAR(one, sum, 1e-10 * sum);
  EXPECT_EQ(sum_of_squares({}), 0.0);
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
