// Scaling laws fitted to runs, by Levenberg and Marquardt's method as Eigen has it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "gpt/law.h"

namespace gigagpt {

// What a finished run came to.
struct LawPoint {
  std::string name;
  double flops = 0;  // by the paper's count
  double parameters = 0, tokens = 0;
  double loss = 0;  // nats a token, of validation
};

// 95 % of fits to losses that scatter as those at hand do lie in it.
struct Interval {
  double low = 0, high = 0;
};

struct LawFit {
  ScalingLaw law;
  Interval exponent, floor;
  double scatter = 0;  // root mean square of the relative errors, by the degrees of freedom
};

// Fits log L at equal weights. Throws Error for fewer than four runs, or such that span less than
// ten times the FLOPs. The intervals are of 400 bootstrap samples of the residuals.
LawFit fit_law(std::span<const LawPoint> points, const std::string& name, uint64_t seed = 0);
// Where the loss at those FLOPs lies, by the same samples and with the scatter of a single run.
Interval predicted_loss(std::span<const LawPoint> points, double flops, uint64_t seed = 0);

// A fitted law as a file: JSON with the law, its intervals, the runs, and what their text is known
// by. Throws Error for a file that is none.
void write_law(const Path& file, const LawFit& fit, std::span<const LawPoint> points,
               const std::string& data);

// L(N, D) = floor + a N^-alpha + b D^-beta of N parameters and D tokens (Hoffmann et al. 2022,
// arXiv 2203.15556, approach 3).
struct ShapeLaw {
  double floor = 0, a = 0, alpha = 0, b = 0, beta = 0;

  double loss(double parameters, double tokens) const;
  // Tokens a parameter that make the loss least where parameters times tokens are so many.
  double best_ratio(double product) const;
};

// Throws Error for fewer than six runs, or where all have the same tokens a parameter.
ShapeLaw fit_shape(std::span<const LawPoint> points);

}  // namespace gigagpt
