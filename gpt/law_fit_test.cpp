#include "gpt/law_fit.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "base/random.h"
#include "base/testing.h"

namespace gigagpt {
namespace {

// Losses of the law at so many FLOPs, each off by `scatter` relatively.
std::vector<LawPoint> draw(const ScalingLaw& law, std::initializer_list<double> flops,
                           float scatter, uint64_t seed) {
  std::vector<LawPoint> points;
  std::vector<float> noise((flops.size() + 3) / 4 * 4);
  fill_normal(noise, 0, seed, 0, scatter);
  for (const double f : flops)
    points.push_back({"", f, 0, 0, law.loss(f) * (1 + double(noise[points.size()]))});
  return points;
}

const ScalingLaw kLaw{"", 3e14, 0.21, 1.1};

TEST(LawFit, FindsTheLawThatLossesFollow) {
  const LawFit fit = fit_law(draw(kLaw, {1e12, 4e12, 2e13, 1e14, 6e14}, 0, 1), "mine");
  EXPECT_EQ(fit.law.name, "mine");
  EXPECT_NEAR(fit.law.exponent, 0.21, 1e-4);
  EXPECT_NEAR(fit.law.floor, 1.1, 1e-3);
  EXPECT_NEAR(fit.law.scale / 3e14, 1, 1e-3);
  EXPECT_LT(fit.scatter, 1e-6);
  EXPECT_NEAR(fit.exponent.high - fit.exponent.low, 0, 1e-3);
}

// The published losses give the published law again: its exponent, with its floor taken as given by
// the fit itself, within what seven losses with a scatter of 0.7 % can tell.
TEST(LawFit, OfThePublishedModelsHoldsThePublishedLaw) {
  std::vector<LawPoint> points;
  for (const PublishedModel& m : published_models())
    points.push_back({m.name, m.flops, m.parameters, m.tokens, m.loss});
  const LawFit fit = fit_law(points, "again");
  EXPECT_LT(fit.scatter, 0.01);
  EXPECT_LE(fit.exponent.low, 0.0737);
  EXPECT_GE(fit.exponent.high, 0.0737);
  for (const PublishedModel& m : published_models())
    EXPECT_NEAR(fit.law.loss(m.flops), published_law(false).loss(m.flops), 0.01 * m.loss);
}

// A run four times as large as the largest that was fitted lies where it was predicted, for 40
// draws of the losses; of intervals that hold 95 %, and are of few runs, more than five that do not
// would be rare (a probability below 0.05 of even 90 %).
TEST(LawFit, ALargerModelIsWhereItWasPredicted) {
  int missed = 0;
  double widest = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const auto all = draw(kLaw, {1e12, 4e12, 2e13, 6e13, 1.5e14, 6e14}, 0.003F, seed);
    const std::span known(all.data(), 5);
    const Interval interval = predicted_loss(known, 6e14, seed);
    missed += all[5].loss < interval.low || all[5].loss > interval.high ? 1 : 0;
    widest = std::max(widest, (interval.high - interval.low) / all[5].loss);
  }
  EXPECT_LE(missed, 7);
  EXPECT_LT(widest, 0.15) << "an interval of anything would hold everything";
}

TEST(LawFit, TooFewOrTooLikeRunsAreRefused) {
  EXPECT_ERROR(fit_law(draw(kLaw, {1e12, 1e13, 1e14}, 0, 1), ""), "it needs four runs, not 3");
  EXPECT_ERROR(fit_law(draw(kLaw, {1e12, 1e12, 1e14, 1e14}, 0, 1), ""),
               "it needs runs of three sizes or more");
  EXPECT_ERROR(fit_law(draw(kLaw, {1e12, 2e12, 3e12, 4e12}, 0, 1), ""),
               "the runs span 4.0 times the FLOPs");
}

std::vector<LawPoint> grid(const ShapeLaw& law, const std::vector<std::array<double, 2>>& shapes) {
  std::vector<LawPoint> points;
  for (const auto& [n, d] : shapes) points.push_back({"", 6 * n * d, n, d, law.loss(n, d)});
  return points;
}

TEST(ShapeLaw, FindsTheLawThatLossesFollowAndItsBestRatio) {
  const ShapeLaw law{1.69, 406.4, 0.34, 410.7, 0.28};  // Chinchilla's
  const ShapeLaw fit = fit_shape(grid(
      law, {{1e7, 1e8}, {1e7, 8e8}, {4e7, 2e8}, {4e7, 3e9}, {2e8, 1e9}, {2e8, 1e10}, {1e9, 2e10}}));
  EXPECT_NEAR(fit.alpha, 0.34, 1e-3);
  EXPECT_NEAR(fit.beta, 0.28, 1e-3);
  EXPECT_NEAR(fit.floor, 1.69, 0.01);
  // The best ratio is where no other has a lower loss.
  const double product = 1e18, ratio = fit.best_ratio(product);
  const auto at = [&](double r) {
    const double n = std::sqrt(product / r);
    return fit.loss(n, r * n);
  };
  EXPECT_LT(at(ratio), at(ratio * 1.1));
  EXPECT_LT(at(ratio), at(ratio / 1.1));
  const Interval within = fit.ratios_within(0.01, product);
  EXPECT_NEAR(at(within.low) / at(ratio), 1.01, 1e-3);
  EXPECT_NEAR(at(within.high) / at(ratio), 1.01, 1e-3);
  EXPECT_LT(within.low, ratio);
  EXPECT_GT(within.high, ratio);
}

// The interval of the best ratio holds it, and is narrow where losses scatter little.
TEST(ShapeLaw, SaysHowSureItsBestRatioIs) {
  const ShapeLaw law{1.69, 406.4, 0.34, 410.7, 0.28};
  auto points = grid(law, {{1e7, 1e8},
                           {1e7, 8e8},
                           {4e7, 2e8},
                           {4e7, 3e9},
                           {2e8, 1e9},
                           {2e8, 1e10},
                           {1e9, 2e10},
                           {1e9, 1e11}});
  std::vector<float> noise(8);
  fill_normal(noise, 0, 5, 0, 0.001F);
  for (size_t i = 0; i < points.size(); ++i) points[i].loss *= 1 + double(noise[i]);
  const Interval interval = best_ratios(points, 1e18);
  EXPECT_LT(interval.low, law.best_ratio(1e18));
  EXPECT_GT(interval.high, law.best_ratio(1e18));
  EXPECT_LT(interval.high / interval.low, 4);
}

TEST(ShapeLaw, RunsOfOneRatioAreRefused) {
  const ShapeLaw law{1.69, 406.4, 0.34, 410.7, 0.28};
  EXPECT_ERROR(fit_shape(grid(law, {{1e7, 1e8}})), "it needs six runs, not 1");
  EXPECT_ERROR(fit_shape(grid(
                   law, {{1e7, 2e8}, {2e7, 4e8}, {4e7, 8e8}, {1e8, 2e9}, {2e8, 4e9}, {4e8, 8e9}})),
               "all runs have 20 to 20 tokens a parameter");
  EXPECT_ERROR(fit_shape(grid(
                   law, {{1e7, 1e8}, {1e7, 4e8}, {1e7, 8e8}, {2e7, 2e8}, {2e7, 4e8}, {2e7, 8e8}})),
               "fewer than three sizes");
}

}  // namespace
}  // namespace gigagpt
