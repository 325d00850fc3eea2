// Checks of gradients: against plain autograd, and against the loss itself.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "engine/check/check_parts.h"
#include "engine/model/oracle.h"
#include "engine/run/executor.h"

namespace gigagpt::engine::checks {
namespace {

OracleResult oracle_of(const Trial& trial) {
  return run_oracle(trial.model, trial.values, trial.subject.batches, kKey);
}

double norm_of(const at::Tensor& x) {
  return x.to(at::kDouble).norm().item<double>();
}

// One direction, and the slope of the loss along it, from central differences of two widths
// (Richardson's extrapolation).
struct Slope {
  double value = 0;
  double error = 0;  // that cannot be told from the loss's own rounding and curvature
};

Slope slope_along(const Trial& trial, const std::string& name, const at::Tensor& direction,
                  double width) {
  const auto difference = [&](double h) {
    Values moved = trial.values;
    const auto loss = [&](double by) {
      moved[name] = (trial.values.at(name).to(at::kDouble) + by * direction).to(at::kFloat);
      return objective(trial, moved, trial.subject.batches, /*training=*/true);
    };
    return (loss(h) - loss(-h)) / (2 * h);
  };
  const double wide = difference(width), narrow = difference(width / 2);
  // A loss is rounded to fp32, and so is all that leads to it: a few units in its last place, which
  // the extrapolation multiplies by 4 / 3 and the division by 1 / width.
  const double rounding = 8 * std::ldexp(1, -24) * 4;
  return {(4 * narrow - wide) / 3, std::abs(wide - narrow) / 3 + rounding / width};
}

// What the loss says against a parameter's gradient; "" if it says nothing. `told` counts the
// directions in which it could have.
std::string contradiction(const Trial& trial, const std::string& name, const at::Tensor& grad,
                          int& told) {
  const double length = norm_of(grad), size = norm_of(trial.values.at(name));
  if (length == 0) return "";  // another check's
  const auto n = double(grad.numel());
  // So far that the loss changes by a hundredth, or the parameter by a twentieth.
  const double width = std::min(0.01 / length, 0.05 * std::max(size, 0.1));
  for (int way = 0; way < 4; ++way) {
    at::Tensor direction = grad.to(at::kDouble) / length;
    if (way > 0) {  // what is missing in a gradient does not show along itself
      std::vector<float> numbers(static_cast<size_t>(grad.numel()));
      fill_normal(numbers, 0, mix(hash_name(name), uint64_t(way)), 0, 1);
      direction = at::tensor(numbers).view(grad.sizes()).to(at::kDouble);
      direction /= norm_of(direction);
    }
    const double expected = (grad.to(at::kDouble) * direction).sum().item<double>();
    const double scale = way == 0 ? length : length / std::sqrt(n);
    const Slope slope = slope_along(trial, name, direction, way == 0 ? width : 3 * width);
    const double allowed = 2 * slope.error + 2e-3 * std::max(scale, std::abs(expected));
    if (allowed > 0.2 * scale) continue;
    ++told;
    if (std::abs(slope.value - expected) <= allowed) continue;
    return fmt::format("{}: along {} the loss rises by {:.5g} a unit, but its gradient says {:.5g}",
                       name, way == 0 ? "the gradient" : "a random direction", slope.value,
                       expected);
  }
  return "";
}

}  // namespace

Verdict check_bits(const Trial& trial) {
  const OracleResult oracle = oracle_of(trial);
  const std::vector<Execution> ways = {{0, false}, {0, true}, {1, false}, {1, true}, {2, true}};
  for (const Execution& way : ways) {
    Store store(trial.specs, {Precision::kFp32, /*training=*/true});
    fill(store, trial.values);
    const auto gradients =
        Executor(trial.model, store, way).compute_gradients(trial.subject.batches, kKey, {}, {});
    std::vector<std::string> differing;
    for (const auto& [name, grad] : oracle.grads) {
      if (!at::equal(tensor_of(store, Array::kGradient, name), grad)) differing.push_back(name);
    }
    if (gradients->loss != oracle.loss) differing.emplace_back("the loss");
    if (gradients->added_losses != oracle.added_losses) differing.emplace_back("an added loss");
    if (differing.empty()) continue;
    return bad(fmt::format(
        "with {} micro-batches at once and {}, {} of {} gradients differ, the first that of {}",
        way.window == 0 ? "all" : std::to_string(way.window),
        way.recompute ? "layers run twice" : "outputs kept", differing.size(), oracle.grads.size(),
        differing.front()));
  }
  return good(fmt::format("{} ways, {} gradients", ways.size(), oracle.grads.size()));
}

Verdict check_alive(const Trial& trial) {
  std::vector<std::string> dead;
  for (const auto& [name, grad] : oracle_of(trial).grads) {
    if (norm_of(grad) == 0) dead.push_back(name);
  }
  if (dead.empty()) return good(fmt::format("{} parameters", trial.values.size()));
  return bad(fmt::format("{} {} not change the loss: unused, or cut off from it",
                         fmt::join(dead, ", "), dead.size() == 1 ? "does" : "do"));
}

Verdict check_slopes(const Trial& trial) {
  int told = 0;
  std::vector<std::string> problems;
  for (const auto& [name, grad] : oracle_of(trial).grads) {
    const std::string problem = contradiction(trial, name, grad, told);
    if (!problem.empty()) problems.push_back(problem);
  }
  if (problems.empty()) return good(fmt::format("{} directions", told));
  const std::string more =
      problems.size() > 1 ? fmt::format("; {} more are wrong", problems.size() - 1) : "";
  return bad(problems.front() + more);
}

// Each rounding to bf16 changes a number by up to 2^-8, and errors of many add up to few times
// that; a gradient that has lost a part of itself is off by more than this.
Verdict check_bf16(const Trial& trial) {
  constexpr double kAllowed = 0.15;
  const OracleResult oracle = oracle_of(trial);
  Store store(trial.specs, {Precision::kBf16, /*training=*/true});
  fill(store, trial.values);
  Executor(trial.model, store, {}).compute_gradients(trial.subject.batches, kKey, {}, {});
  double largest = 0, worst = 0;
  for (const auto& [name, grad] : oracle.grads) largest = std::max(largest, norm_of(grad));
  for (const auto& [name, grad] : oracle.grads) {
    if (norm_of(grad) < 1e-3 * largest) continue;
    const at::Tensor other = tensor_of(store, Array::kGradient, name);
    const double error = norm_of(other - grad) / norm_of(grad);
    if (error > kAllowed) return bad(fmt::format("{} is {:.0f} % off", name, 100 * error));
    worst = std::max(worst, error);
  }
  return good(fmt::format("within {:.1f} %", 100 * worst));
}

}  // namespace gigagpt::engine::checks
