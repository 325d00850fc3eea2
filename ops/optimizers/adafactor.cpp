#include "ops/optimizers/adafactor.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "ops/optimizer.h"
#include "ops/parallel.h"

namespace gigagpt::ops {
namespace {

constexpr double kDecay = -0.8;              // the averages' weight at step t is t^-0.8
constexpr auto kLeastRoot = float(0x1p-23);  // of a mean of squares
constexpr double kLeastSize = 1e-3;          // of a parameter, as its root mean square
constexpr double kMostStep = 1;              // root mean square of steps before they are scaled
constexpr size_t kMostParts = Adafactor::kMostParts;

struct Matrix {
  std::span<float> grad;  // [R C], becomes the step
  size_t columns;
  std::span<float> row_means, column_means;

  size_t rows() const { return grad.size() / columns; }
  size_t part_rows() const { return std::max<size_t>(16, (rows() + kMostParts - 1) / kMostParts); }
  // Calls f(part, its first row, the row after its last).
  template <class F>
  size_t in_parts(const F& f) const {
    const size_t size = part_rows(), parts = (rows() + size - 1) / size;
    parallel_tasks(parts, [&](size_t part, int) {
      f(part, part * size, std::min(rows(), (part + 1) * size));
    });
    return parts;
  }
};

void move_to(float& average, double value, double weight) {
  average = float(double(average) + weight * (value - double(average)));
}

// Moves the means of squares to those of scale * grad.
void average_squares(const Matrix& m, double scale, double weight) {
  const size_t columns = m.columns;
  std::vector<double> sums(kMostParts * columns);  // of columns, per part
  const size_t parts = m.in_parts([&](size_t part, size_t begin, size_t end) {
    double* of_columns = &sums[part * columns];
    for (size_t r = begin; r < end; ++r) {
      double of_row = 0;
      for (size_t c = 0; c < columns; ++c) {
        const double g = scale * double(m.grad[r * columns + c]);
        of_row += g * g;
        of_columns[c] += g * g;
      }
      move_to(m.row_means[r], of_row / double(columns), weight);
    }
  });
  for (size_t c = 0; c < columns; ++c) {
    double sum = 0;
    for (size_t part = 0; part < parts; ++part) sum += sums[part * columns + c];
    move_to(m.column_means[c], sum / double(m.rows()), weight);
  }
}

// Fills in the steps; the sum of their squares.
double take_steps(const Matrix& m, float scale) {
  const double all = std::accumulate(m.row_means.begin(), m.row_means.end(), 0.0);
  const double mean = std::max(all / double(m.rows()), double(kLeastRoot));
  std::vector<double> sums(kMostParts);
  m.in_parts([&](size_t part, size_t begin, size_t end) {
    double sum = 0;
    for (size_t r = begin; r < end; ++r) {
      const auto of_row = float(double(m.row_means[r]) / mean);
      for (size_t c = 0; c < m.columns; ++c) {
        float& g = m.grad[r * m.columns + c];
        g = scale * g / std::sqrt(std::max(of_row * m.column_means[c], kLeastRoot * kLeastRoot));
        sum += double(g) * double(g);
      }
    }
    sums[part] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

double take_elementwise_steps(std::span<float> grad, std::span<float> mean_squares, float scale,
                              double weight) {
  double sum = 0;
  for (size_t i = 0; i < grad.size(); ++i) {
    const float g = scale * grad[i];
    move_to(mean_squares[i], double(g) * double(g), weight);
    grad[i] = g / std::sqrt(std::max(mean_squares[i], kLeastRoot * kLeastRoot));
    sum += double(grad[i]) * double(grad[i]);
  }
  return sum;
}

double root_mean_square(double sum, size_t count) {
  return std::sqrt(sum / double(count));
}

}  // namespace

void Adafactor::direct(const WholeParam& p, const StepNumbers& numbers, double lr) {
  const auto step = double(numbers.step);
  const double weight = std::pow(step, kDecay);
  double sum = 0;
  if (!has_rows_and_columns(p.shape)) {
    sum = take_elementwise_steps(p.grad, p.exp_avg_sq, float(p.grad_scale), weight);
  } else {
    const auto rows = size_t(p.shape[p.shape.size() - 2]), columns = size_t(p.shape.back());
    const size_t kept = rows + columns;
    for (size_t i = 0; i * rows * columns < p.grad.size(); ++i) {
      const Matrix matrix{p.grad.subspan(i * rows * columns, rows * columns), columns,
                          p.exp_avg_sq.subspan(i * kept, rows),
                          p.exp_avg_sq.subspan(i * kept + rows, columns)};
      average_squares(matrix, p.grad_scale, weight);
      sum += take_steps(matrix, float(p.grad_scale));
    }
  }
  const double size = root_mean_square(sum_of_squares(p.value), p.value.size());
  // What the engine multiplies by lr, which is at most 1 / sqrt(step) times the parameter's factor.
  const double rate =
      std::max(kLeastSize, size) * std::min(1.0, p.factors.rate / (lr * std::sqrt(step)));
  const double most = std::max(1.0, root_mean_square(sum, p.grad.size()) / kMostStep);
  const auto factor = float(rate / most);
  parallel_parts(p.grad.size(), 1 << 14, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) p.grad[i] *= factor;
  });
}

}  // namespace gigagpt::ops
