#include "ops/optimizer.h"

#include <numeric>
#include <vector>

#include "base/trace.h"
#include "ops/compact.h"
#include "ops/kernels/optimizer.h"
#include "ops/parallel.h"

namespace gigagpt::ops {
namespace {

constexpr size_t kChunk = 1 << 14;  // elements that are worth a thread's while

}  // namespace

void update(std::span<const ParamState> states, const UpdateRule& rule, double lr,
            double grad_scale, int64_t step) {
  struct Task {
    const ParamState* state;
    size_t begin, end;
  };
  std::vector<Task> tasks;
  double bytes = 0;
  for (const ParamState& state : states) {
    // Gradient and compute copy once, the rest read and written.
    bytes +=
        double(state.value.size()) * (12 + 8 * rule.optimizer->kept() + (state.compute ? 2 : 0));
    for (size_t i = 0; i < state.value.size(); i += kChunk)
      tasks.push_back({&state, i, std::min(i + kChunk, state.value.size())});
  }
  const Zone zone("optimizer", 0, bytes);
  const kernels::UpdateNumbers numbers = kernels::update_numbers(rule, lr, grad_scale, step);
  parallel_parts(tasks.size(), 1, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) {
      kernels::update(*tasks[i].state, numbers, tasks[i].begin, tasks[i].end);
    }
  });
}

void update(std::span<const CompactPiece> pieces, const UpdateRule& rule, double lr,
            double grad_scale, int64_t step, uint64_t layer) {
  double bytes = 0;  // a weight and codes in and out, and the gradient
  for (const CompactPiece& piece : pieces)
    bytes += double(piece.count) * (8 + 2 * rule.optimizer->kept());
  const Zone zone("optimizer", 0, bytes);
  parallel_parts(pieces.size(), 8, [&](size_t begin, size_t end, size_t) {
    update_alone(pieces.subspan(begin, end - begin), rule, lr, grad_scale, step, layer);
  });
}

void round_to_bf16(std::span<float> values) {
  const Zone zone("gradient to bf16", 0, 2.0 * double(values.size_bytes()));
  parallel_parts(values.size(), kChunk, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) values[i] = kernels::to_float(kernels::to_bf16(values[i]));
  });
}

double sum_of_squares(std::span<const float> values) {
  const Zone zone("gradient norm", 0, double(values.size_bytes()));
  std::vector<double> partial((values.size() + kChunk - 1) / kChunk);
  parallel_parts(partial.size(), 4, [&](size_t begin, size_t end, size_t) {
    for (size_t chunk = begin; chunk < end; ++chunk) {
      const size_t first = chunk * kChunk;
      partial[chunk] = kernels::optimizer_kernels().sum_of_squares(
          values.data() + first, std::min(kChunk, values.size() - first));
    }
  });
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

}  // namespace gigagpt::ops
