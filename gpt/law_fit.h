// Scaling laws fitted to runs, by Levenberg and Marquardt's method as Eigen has it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "gpt/law.h"

namespace gigagpt {

struct LawFit {
  ScalingLaw law;
  Interval exponent, floor;
  double scatter = 0;  // root mean square of the relative errors, by the degrees of freedom
};

// Fits log L at equal weights. Throws Error for fewer than four runs or three sizes, or such that
// span less than ten times the FLOPs. The intervals are of 400 bootstrap samples of the residuals.
LawFit fit_law(std::span<const LawPoint> points, const std::string& name, uint64_t seed = 0);
// Intervals of losses at those FLOPs, by the same samples and with the scatter of a single run.
std::vector<Interval> predicted_losses(std::span<const LawPoint> points,
                                       std::span<const double> flops, uint64_t seed = 0);
Interval predicted_loss(std::span<const LawPoint> points, double flops, uint64_t seed = 0);

// L(N, D) = floor + a N^-alpha + b D^-beta of N parameters and D tokens (Hoffmann et al. 2022,
// arXiv 2203.15556, approach 3).
struct ShapeLaw {
  double floor = 0, a = 0, alpha = 0, b = 0, beta = 0;

  double loss(double parameters, double tokens) const;
  // Tokens a parameter that make the loss least where parameters times tokens are so many.
  double best_ratio(double product) const;
  // The tokens a parameter, below and above that, from which on the loss is above the least by more
  // than `share` of it.
  Interval ratios_within(double share, double product) const;
};

// Throws Error for fewer than six runs or three sizes, or where all have the same tokens a
// parameter.
ShapeLaw fit_shape(std::span<const LawPoint> points);
// The interval of its best ratio, by bootstrap samples as those of fit_law.
Interval best_ratios(std::span<const LawPoint> points, double product, uint64_t seed = 0);

}  // namespace gigagpt
