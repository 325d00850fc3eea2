// Adafactor (Shazeer and Stern 2018, algorithms 4 and 5, as PyTorch has it): the second moment of a
// matrix is kept as the means of its rows and columns, and steps are relative to the size of the
// parameter. beta1, beta2 and adam_epsilon are not used: it has constants in their place.
#pragma once

#include "ops/optimizers/optimizer.h"

namespace gigagpt::ops {

struct WholeParam;

struct Adafactor {
  static constexpr int kMostParts = 64;  // that sums are made of, whatever the threads
  static constexpr double bytes(std::span<const int64_t> shape, double) {
    return 8.0 * kMostParts * double(shape.empty() ? 1 : shape.back());
  }
  static constexpr Optimizer kInfo = {.name = "adafactor",
                                      .mup_power = -0.5,
                                      .whole = Whole::kAll,
                                      .whole_exp_avg_sq = Kept::kRowsAndColumns,
                                      .whole_bytes = &Adafactor::bytes};

  explicit Adafactor(const StepNumbers&) {}

  static void direct(const WholeParam& param, const StepNumbers& numbers, double lr);
};

}  // namespace gigagpt::ops
