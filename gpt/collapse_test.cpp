#include "gpt/collapse.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "base/testing.h"

namespace gigagpt {
namespace {

constexpr int kSteps = 800;

// The losses of a run that ends at `final_loss`, each off by 3 %, and all of them by 0.4 %, as runs
// of other seeds are. `change` may spoil it.
std::vector<double> losses_of(uint64_t seed, double final_loss,
                              const std::function<double(double share, double loss)>& change = {}) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> noise;
  const double level = final_loss * (1 + 0.004 * noise(random));
  std::vector<double> losses;
  for (int i = 1; i <= kSteps; ++i) {
    const double share = double(i) / kSteps;
    const double loss = level * (0.7 + 0.3 * std::pow(share, -0.25)) * (1 + 0.03 * noise(random));
    losses.push_back(change ? change(share, loss) : loss);
  }
  return losses;
}

double flops_of(double final_loss) {
  return std::exp(final_loss);
}

CollapseCurve fitted() {
  std::vector<KnownLosses> runs;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const double final_loss = 3 + double(seed) / 4;
    PartMeans means(kSteps * 100, final_loss);
    int step = 0;
    for (const double loss : losses_of(seed, final_loss)) means.add(++step * 100, loss);
    runs.push_back({"run " + std::to_string(seed), flops_of(final_loss), means.losses()});
  }
  return fit_collapse(runs);
}

// The step at which a run is said to have left the band, 0 if it is not.
int left_at(const CollapseCurve& curve, const std::vector<double>& losses, double final_loss,
            int first = 0, std::string* text = nullptr) {
  CollapseWatch watch(curve, flops_of(final_loss), kSteps * 100, final_loss, 0);
  int left = 0;
  for (int i = first; i < kSteps; ++i) {
    const auto said = watch.add((i + 1) * 100, losses[size_t(i)]);
    if (!said) continue;
    EXPECT_EQ(left, 0) << "it is said once";
    left = i + 1;
    if (text != nullptr) *text = *said;
  }
  return left;
}

TEST(Collapse, TheCurveIsThatOfItsRuns) {
  const CollapseCurve curve = fitted();
  const CollapseWatch watch(curve, flops_of(4), 1, 2, 0);
  for (const double share : {0.1, 0.3, 0.7, 0.95})
    EXPECT_NEAR(watch.expected(share) / 2, 0.7 + 0.3 * std::pow(share, -0.25), 0.01) << share;
}

// What a single part hides in its noise.
TEST(Collapse, ARunThatIsOffByLittleForLongIsTold) {
  const CollapseCurve curve = fitted();
  const auto worse = losses_of(9, 4, [](double, double loss) { return loss * 1.03; });
  EXPECT_GT(left_at(curve, worse, 4), 0);
}

// Curves of larger models may fall otherwise: what differs by size is no spread.
TEST(Collapse, TheCurveMovesWithTheSize) {
  std::vector<KnownLosses> runs;
  for (const double flops : {1.0, 10.0, 100.0, 1000.0, 10000.0})
    runs.push_back({"", flops, PartLosses(kCollapseParts, 0.5 - 0.01 * std::log(flops))});
  const CollapseCurve curve = fit_collapse(runs);
  EXPECT_NEAR(curve.at(1e6)[7], 0.5 - 0.01 * std::log(1e6), 1e-9);
  EXPECT_NEAR(curve.bands[0].spread[7], 0.002, 1e-9) << "the least that is counted with";
}

TEST(Collapse, NormalRunsStayInTheBand) {
  const CollapseCurve curve = fitted();
  int left = 0;
  for (uint64_t seed = 100; seed < 200; ++seed)
    left += left_at(curve, losses_of(seed, 4), 4) > 0 ? 1 : 0;
  EXPECT_LE(left, 5);
}

TEST(Collapse, RunsThatLeaveItAreToldWhereAndOnce) {
  const CollapseCurve curve = fitted();
  std::string text;
  const auto worse =
      losses_of(9, 4, [](double share, double loss) { return share > 0.4 ? loss * 1.06 : loss; });
  const int left = left_at(curve, worse, 4, 0, &text);
  EXPECT_GT(left, 0.4 * kSteps);
  EXPECT_LE(left, 0.5 * kSteps);
  EXPECT_NE(text.find("the loss over the last "), std::string::npos) << text;
  EXPECT_NE(text.find(" % above what is expected; normal runs are within "), std::string::npos)
      << text;
  const auto better = losses_of(9, 4, [](double, double loss) { return loss * 0.9; });
  EXPECT_GT(left_at(curve, better, 4, 0, &text), 0);
  EXPECT_NE(text.find(" % below what is expected"), std::string::npos) << text;
  // The last part counts too.
  const auto end =
      losses_of(9, 4, [](double share, double loss) { return share > 0.98 ? loss * 1.3 : loss; });
  EXPECT_EQ(left_at(curve, end, 4), kSteps);
}

// The losses of a part that is not whole would be those of its end.
TEST(Collapse, ARunThatIsWatchedFromItsMiddleIsJudgedFromTheNextPartOn) {
  const CollapseCurve curve = fitted();
  const auto burst = losses_of(9, 4, [](double share, double loss) {
    return share > 0.51 && share < 0.525 ? loss * 2 : loss;
  });
  EXPECT_GT(left_at(curve, burst, 4), 0);
  EXPECT_EQ(left_at(curve, burst, 4, int(0.511 * kSteps)), 0);
}

TEST(Collapse, WhatTheLawIsUnsureOfWidensTheBand) {
  const CollapseCurve curve = fitted();
  const auto worse = losses_of(9, 4, [](double, double loss) { return loss * 1.06; });
  const double flops = flops_of(4);
  CollapseWatch sure(curve, flops, kSteps * 100, 4, 0), unsure(curve, flops, kSteps * 100, 4, 0.05);
  bool sure_left = false, unsure_left = false;
  for (int i = 0; i < kSteps; ++i) {
    sure_left |= sure.add((i + 1) * 100, worse[size_t(i)]).has_value();
    unsure_left |= unsure.add((i + 1) * 100, worse[size_t(i)]).has_value();
  }
  EXPECT_TRUE(sure_left);
  EXPECT_FALSE(unsure_left);
}

// A run just below the band is farther below than a run within it may be.
TEST(Collapse, BothNumbersOfAMessageAreOfTheSameSide) {
  const std::vector<double> zeros(kCollapseParts);
  const CollapseCurve curve{0, zeros, zeros, {{1, std::vector<double>(kCollapseParts, 0.1), 1}}};
  CollapseWatch watch(curve, 1, kCollapseParts, 1, 0);
  watch.add(1, std::exp(-0.101));
  EXPECT_EQ(watch.add(2, 1),
            "the loss over the last 2.5 % of the run is 9.6 % below what is expected; normal runs "
            "are within "
            "9.5 %");
}

TEST(Collapse, RunsThatSayNothingOfWhatIsNormalAreNamed) {
  const std::vector<KnownLosses> few(4, {"few", 1, PartLosses(kCollapseParts, 0.1)});
  EXPECT_ERROR(fit_collapse(few), "a curve of normal runs needs 5 of them, not 4");
  std::vector<KnownLosses> runs(6, {"good", 1, PartLosses(kCollapseParts, 0.1)});
  runs[2].name = "short";
  PartMeans short_run(1000, 3);
  for (int i = 1; i <= 10; ++i) short_run.add(i * 100, 4);
  runs[2].losses = short_run.losses();
  EXPECT_ERROR(fit_collapse(runs),
               "short: its metrics.jsonl does not have steps in each of 40 parts of the run");
  runs[2] = runs[1];
  runs[3].name = "spoiled";
  runs[3].losses[20] += 0.5;
  EXPECT_ERROR(fit_collapse(runs), "spoiled: its losses are ");
}

}  // namespace
}  // namespace gigagpt
