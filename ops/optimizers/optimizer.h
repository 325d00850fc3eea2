// The seam between an optimizer and what applies it: an optimizer is one struct in a file of its
// own here, and its name in ops/optimizers/list.h.
//
// The struct has `static constexpr Optimizer kInfo`, which says what is kept for each element, a
// constructor that takes the numbers of a step, and step(), which moves what is kept and returns
// the direction:
//
//   float step(float g, float& exp_avg, float& exp_avg_sq) const;   // with what it keeps of these
//
// The engine then does w = w (1 - lr weight_decay) - lr direction, with each parameter's own rate
// and decay. step() is compiled for every kind of CPU without fused operations, so its bits are the
// same on all. It is inlined into loops that compilers turn into vectors: no branches, no calls but
// std::sqrt and the like.
//
// One that needs all of a parameter for its direction says so in kInfo.whole, and has a static
// direct() for those, which may use ops/gemm.h and all threads (ops/optimizer.h has WholeParam):
//
//   static void direct(const WholeParam& param, const StepNumbers& numbers, double lr);
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace gigagpt::ops {

enum class Whole { kNone, kHiddenMatrices, kAll };

// Of a parameter that is needed whole: a number for each element; or one for each row and each
// column of a matrix, and for each element of what is none.
enum class Kept { kNothing, kElements, kRowsAndColumns };

constexpr bool has_rows_and_columns(std::span<const int64_t> shape) {
  return shape.size() >= 2 && shape[shape.size() - 2] > 1 && shape.back() > 1;
}

// An optimizer as the rest of the program knows it.
struct Optimizer {
  const char* name;
  // Whether it keeps a number of either sign for each element, and one that is not negative. In
  // `state: compact` they have 8 bits each.
  bool exp_avg = false;
  bool exp_avg_sq = false;
  // The power of the width that a hidden matrix's learning rate goes with in muP, while those of
  // embeddings and vectors stay; null: muP has no such rule for it. Steps of one size for every
  // element have -1; those of one spectral norm, or in proportion to a matrix that is drawn with a
  // deviation of width^-1/2, have -1/2.
  std::optional<double> mup_power = {};
  // The parameters that it needs whole: they are cut neither into segments nor into shards, and
  // what is kept of them is said apart.
  Whole whole = Whole::kNone;
  Kept whole_exp_avg = Kept::kNothing;
  Kept whole_exp_avg_sq = Kept::kNothing;
  // What a direction takes: products, and memory beside what is given.
  double (*whole_flops)(std::span<const int64_t> shape) = nullptr;
  double (*whole_bytes)(std::span<const int64_t> shape, double element_bytes) = nullptr;
};

// All that there are, in the order of their names.
std::span<const Optimizer* const> optimizers();
const Optimizer* find_optimizer(const std::string& name);  // null if there is none of that name
std::vector<std::string> optimizer_names();

// Config keys of the same meaning set them.
struct OptimizerNumbers {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double muon_momentum = 0.95;
};

// Those of one step, counted from 1.
struct StepNumbers : OptimizerNumbers {
  StepNumbers(const OptimizerNumbers& numbers, int64_t step_)
      : OptimizerNumbers(numbers),
        step(step_),
        correction1(1 - std::pow(beta1, double(step))),
        correction2(1 - std::pow(beta2, double(step))) {}

  int64_t step;
  // What an average that began at zero still lacks: it is divided by these.
  double correction1, correction2;
};

}  // namespace gigagpt::ops
