// Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): the momentum of a hidden
// matrix, made orthogonal, so that it moves the matrix alike in all directions. It is scaled as
// AdamW's steps are, whose learning rates and decays it then shares (Liu et al. 2025,
// arXiv:2502.16982); what is no hidden matrix has AdamW.
#pragma once

#include "ops/optimizers/adamw.h"

namespace gigagpt::ops {

struct WholeParam;

struct Muon : AdamW {
  static constexpr int kIterations = 5;  // of Newton and Schulz

  // Of their products: with m <= n, two of [m, m] by [m, n] and one of [m, m] by [m, m].
  static constexpr double flops(std::span<const int64_t> shape) {
    const auto rows = double(shape[shape.size() - 2]), columns = double(shape.back());
    const double m = rows < columns ? rows : columns, n = rows < columns ? columns : rows;
    double matrices = 1;
    for (size_t i = 0; i + 2 < shape.size(); ++i) matrices *= double(shape[i]);
    return matrices * kIterations * (4 * m * m * n + 2 * m * m * m);
  }
  // Of a matrix before and after an iteration, and twice as operands of a product; of two factors
  // of the smaller side and as an operand, and of one in fp32.
  static constexpr double bytes(std::span<const int64_t> shape, double element_bytes) {
    const auto rows = double(shape[shape.size() - 2]), columns = double(shape.back());
    const double m = rows < columns ? rows : columns;
    return element_bytes * (4 * rows * columns + 3 * m * m) + 4 * m * m;
  }
  static constexpr Optimizer kInfo = {.name = "muon",
                                      .exp_avg = true,
                                      .exp_avg_sq = true,
                                      .mup_power = -0.5,
                                      .whole = Whole::kHiddenMatrices,
                                      .whole_exp_avg = Kept::kElements,
                                      .whole_flops = &Muon::flops,
                                      .whole_bytes = &Muon::bytes};

  using AdamW::AdamW;

  static void direct(const WholeParam& param, const StepNumbers& numbers, double lr);
};

}  // namespace gigagpt::ops
