#include "gpt/law_fit.h"

#include <Eigen/Core>
#include <unsupported/Eigen/NonLinearOptimization>
#include <unsupported/Eigen/NumericalDiff>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "base/error.h"
#include "base/random.h"

namespace gigagpt {
namespace {

using Eigen::VectorXd;

// Residuals of a model, as Eigen's solver asks for them.
struct Problem {
  using Scalar = double;
  enum { InputsAtCompileTime = Eigen::Dynamic, ValuesAtCompileTime = Eigen::Dynamic };
  using InputType = VectorXd;
  using ValueType = VectorXd;
  using JacobianType = Eigen::MatrixXd;

  std::function<double(const VectorXd&, size_t)> residual;
  int input_count, value_count;

  int inputs() const { return input_count; }
  int values() const { return value_count; }
  int operator()(const VectorXd& x, VectorXd& to) const {
    for (int i = 0; i < value_count; ++i) to[i] = residual(x, size_t(i));
    return 0;
  }
};

struct Solution {
  VectorXd x;
  double squares = std::numeric_limits<double>::infinity();
};

// From each start; the best is taken.
Solution solve(const Problem& problem, const std::vector<VectorXd>& starts) {
  Solution best;
  for (VectorXd x : starts) {
    Eigen::NumericalDiff<Problem> differences(problem);
    Eigen::LevenbergMarquardt<Eigen::NumericalDiff<Problem>> solver(differences);
    solver.parameters.maxfev = 400;
    solver.minimize(x);
    VectorXd residuals(problem.values());
    problem(x, residuals);
    const double squares = residuals.squaredNorm();
    if (std::isfinite(squares) && squares < best.squares) best = {x, squares};
  }
  if (best.x.size() == 0) fail("no law can be fitted to these losses");
  return best;
}

VectorXd vector_of(std::initializer_list<double> values) {
  VectorXd x(Eigen::Index(values.size()));
  std::copy(values.begin(), values.end(), x.data());
  return x;
}

// The law's numbers as the solver has them, free of bounds: log of the reducible loss at a middle
// number of FLOPs, log of the exponent, log of the floor.
class PowerLaw {
 public:
  explicit PowerLaw(std::span<const LawPoint> points) : points_(points) {
    double sum = 0;
    for (const LawPoint& point : points) sum += std::log(point.flops);
    middle_ = sum / double(points.size());
    least_ = std::ranges::min_element(points, {}, &LawPoint::loss)->loss;
  }

  static constexpr int kNumbers = 3;

  double log_loss(const VectorXd& x, const LawPoint& point) const {
    return log_loss(x, point.flops);
  }
  double log_loss(const VectorXd& x, double flops) const {
    const double reducible = std::exp(x[0] - std::exp(x[1]) * (std::log(flops) - middle_));
    return std::log(reducible + std::exp(x[2]));
  }

  // Starts near the solution for losses that are much alike, or all over.
  Solution fit(std::span<const double> log_losses, const VectorXd* near = nullptr) const {
    const Problem problem{
        [&](const VectorXd& x, size_t i) { return log_loss(x, points_[i].flops) - log_losses[i]; },
        3, int(points_.size())};
    std::vector<VectorXd> starts;
    if (near != nullptr) starts.push_back(*near);
    const std::vector<double> all = {0.05, 0.3, 0.6, 0.9}, few = {0.3, 0.9};
    for (const double share : near == nullptr ? all : few) {
      for (const double exponent :
           near == nullptr ? std::vector{0.03, 0.1, 0.3} : std::vector{0.1}) {
        starts.push_back(vector_of(
            {std::log(least_ * (1 - share)), std::log(exponent), std::log(least_ * share)}));
      }
    }
    return solve(problem, starts);
  }

  ScalingLaw law(const VectorXd& x, const std::string& name) const {
    const double exponent = std::exp(x[1]);
    return {name, std::exp(middle_ + x[0] / exponent), exponent, std::exp(x[2])};
  }

 private:
  std::span<const LawPoint> points_;
  double middle_ = 0, least_ = 0;
};

Interval middle_of(std::vector<double> values) {
  std::ranges::sort(values);
  const auto at = [&](double share) {
    return values[size_t(std::llround(share * double(values.size() - 1)))];
  };
  return {at(0.025), at(0.975)};
}

constexpr int kSamples = 400;

std::vector<double> log_losses_of(std::span<const LawPoint> points) {
  std::vector<double> logs;
  for (const LawPoint& point : points) logs.push_back(std::log(point.loss));
  return logs;
}

// Fits to losses whose residuals are drawn from those of `best`, widened for what the fit took of
// them; use(sample's solution, a residual more).
template <class Model, class Use>
void resample(const Model& model, std::span<const LawPoint> points, const VectorXd& best,
              uint64_t seed, const Use& use) {
  const size_t n = points.size();
  const double wider = std::sqrt(double(n) / double(n - Model::kNumbers));
  std::vector<double> fitted(n), residuals(n), sample(n);
  for (size_t i = 0; i < n; ++i) {
    fitted[i] = model.log_loss(best, points[i]);
    residuals[i] = wider * (std::log(points[i].loss) - fitted[i]);
  }
  for (int s = 0; s < kSamples; ++s) {
    const auto draw = [&](size_t i) {
      const auto words = philox(mix(seed, uint64_t(s)), i);
      return residuals[words[0] % n] * (words[1] % 2 == 0 ? 1 : -1);
    };
    for (size_t i = 0; i < n; ++i) sample[i] = fitted[i] + draw(i);
    use(model.fit(sample, &best).x, draw(n));
  }
}

size_t distinct(std::span<const LawPoint> points, double LawPoint::*number) {
  std::set<double> values;
  for (const LawPoint& point : points) values.insert(point.*number);
  return values.size();
}

}  // namespace

LawFit fit_law(std::span<const LawPoint> points, const std::string& name, uint64_t seed) {
  if (points.size() < 4) fail("a law has three numbers: it needs four runs, not {}", points.size());
  if (distinct(points, &LawPoint::flops) < 3)
    fail("a law has three numbers: it needs runs of three sizes or more");
  const auto [least, most] = std::ranges::minmax(points, {}, &LawPoint::flops);
  if (most.flops < 10 * least.flops) {
    fail(
        "the runs span {:.1f} times the FLOPs, from {:.2g} to {:.2g}: a law needs ten times or "
        "more",
        most.flops / least.flops, least.flops, most.flops);
  }
  const PowerLaw power(points);
  const Solution best = power.fit(log_losses_of(points));
  LawFit fit{power.law(best.x, name), {}, {}, std::sqrt(best.squares / double(points.size() - 3))};
  std::vector<double> exponents, floors;
  resample(power, points, best.x, seed, [&](const VectorXd& x, double) {
    exponents.push_back(std::exp(x[1]));
    floors.push_back(std::exp(x[2]));
  });
  fit.exponent = middle_of(std::move(exponents));
  fit.floor = middle_of(std::move(floors));
  return fit;
}

std::vector<Interval> predicted_losses(std::span<const LawPoint> points,
                                       std::span<const double> flops, uint64_t seed) {
  const PowerLaw power(points);
  const Solution best = power.fit(log_losses_of(points));
  std::vector<std::vector<double>> losses(flops.size());
  resample(power, points, best.x, seed, [&](const VectorXd& x, double residual) {
    for (size_t i = 0; i < flops.size(); ++i)
      losses[i].push_back(std::exp(power.log_loss(x, flops[i]) + residual));
  });
  std::vector<Interval> intervals;
  for (std::vector<double>& of_flops : losses) intervals.push_back(middle_of(std::move(of_flops)));
  return intervals;
}

Interval predicted_loss(std::span<const LawPoint> points, double flops, uint64_t seed) {
  return predicted_losses(points, std::span(&flops, 1), seed)[0];
}

double ShapeLaw::loss(double parameters, double tokens) const {
  return floor + a * std::pow(parameters, -alpha) + b * std::pow(tokens, -beta);
}

double ShapeLaw::best_ratio(double product) const {
  // d/dN of the loss at D = product / N is zero where alpha a N^-alpha = beta b D^-beta.
  const double parameters =
      std::pow(alpha * a / (beta * b) * std::pow(product, beta), 1 / (alpha + beta));
  return product / parameters / parameters;
}

Interval ShapeLaw::ratios_within(double share, double product) const {
  const double best = best_ratio(product);
  const auto at = [&](double ratio) {
    const double parameters = std::sqrt(product / ratio);
    return loss(parameters, ratio * parameters);
  };
  const double most = at(best) * (1 + share);
  const auto edge = [&](double step) {
    double ratio = best;
    while (at(ratio) < most && ratio > best * 1e-3 && ratio < best * 1e3) ratio *= step;
    return ratio;
  };
  return {edge(1 / 1.02), edge(1.02)};
}

namespace {

// The law's numbers as the solver has them: logs of the floor, of both terms in the middle, and of
// both exponents.
class ShapePower {
 public:
  static constexpr int kNumbers = 5;

  explicit ShapePower(std::span<const LawPoint> points) : points_(points) {
    for (const LawPoint& point : points) {
      n_ += std::log(point.parameters) / double(points.size());
      d_ += std::log(point.tokens) / double(points.size());
    }
    least_ = std::ranges::min_element(points, {}, &LawPoint::loss)->loss;
  }

  double log_loss(const VectorXd& x, const LawPoint& point) const {
    return std::log(std::exp(x[0]) +
                    std::exp(x[1] - std::exp(x[2]) * (std::log(point.parameters) - n_)) +
                    std::exp(x[3] - std::exp(x[4]) * (std::log(point.tokens) - d_)));
  }

  Solution fit(std::span<const double> log_losses, const VectorXd* near = nullptr) const {
    const Problem problem{
        [&](const VectorXd& x, size_t i) { return log_loss(x, points_[i]) - log_losses[i]; },
        kNumbers, int(points_.size())};
    if (near != nullptr) return solve(problem, {*near});
    std::vector<VectorXd> starts;
    for (const double share : {0.1, 0.4, 0.7}) {
      for (const double exponent : {0.1, 0.3, 0.6}) {
        const double half = std::log(least_ * (1 - share) / 2), power = std::log(exponent);
        starts.push_back(vector_of({std::log(least_ * share), half, power, half, power}));
      }
    }
    return solve(problem, starts);
  }

  ShapeLaw law(const VectorXd& x) const {
    ShapeLaw law{std::exp(x[0]), 0, std::exp(x[2]), 0, std::exp(x[4])};
    law.a = std::exp(x[1] + law.alpha * n_);
    law.b = std::exp(x[3] + law.beta * d_);
    return law;
  }

 private:
  std::span<const LawPoint> points_;
  double n_ = 0, d_ = 0, least_ = 0;
};

}  // namespace

ShapeLaw fit_shape(std::span<const LawPoint> points) {
  if (points.size() < 6) {
    fail("a law of parameters and tokens has five numbers: it needs six runs, not {}",
         points.size());
  }
  if (distinct(points, &LawPoint::parameters) < 3)
    fail("the runs have fewer than three sizes: what parameters do cannot be told");
  const auto ratio = [](const LawPoint& point) { return point.tokens / point.parameters; };
  const auto [low, high] = std::ranges::minmax(points, {}, ratio);
  if (ratio(high) < 2 * ratio(low)) {
    fail(
        "all runs have {:.3g} to {:.3g} tokens a parameter: what another number of them would do "
        "cannot be told",
        ratio(low), ratio(high));
  }
  const ShapePower power(points);
  return power.law(power.fit(log_losses_of(points)).x);
}

Interval best_ratios(std::span<const LawPoint> points, double product, uint64_t seed) {
  const ShapePower power(points);
  std::vector<double> ratios;
  resample(power, points, power.fit(log_losses_of(points)).x, seed,
           [&](const VectorXd& x, double) { ratios.push_back(power.law(x).best_ratio(product)); });
  return middle_of(std::move(ratios));
}

}  // namespace gigagpt
