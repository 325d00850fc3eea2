#include "ops/optimizer.h"

#include <array>
#include <numeric>
#include <vector>

#include "base/trace.h"
#include "ops/compact.h"
#include "ops/kernels/optimizer.h"
#include "ops/optimizers/list.h"
#include "ops/parallel.h"

namespace gigagpt::ops {
namespace {

constexpr size_t kChunk = 1 << 14;  // elements that are worth a thread's while

template <class Given>
void direct_by(const WholeParam& param, const StepNumbers& numbers, double lr) {
  if constexpr (Given::kInfo.whole != Whole::kNone) Given::direct(param, numbers, lr);
}

template <class... All>
constexpr auto directs_of(std::tuple<All...>*) {
  return std::array{&direct_by<All>...};
}
constexpr auto kDirects = directs_of(static_cast<Optimizers*>(nullptr));

}  // namespace

void make_direction(const WholeParam& param, const UpdateRule& rule, double lr, int64_t step) {
  const double flops = rule.optimizer->whole_flops ? rule.optimizer->whole_flops(param.shape) : 0;
  const Zone zone("direction", flops, 4.0 * double(param.value.size_bytes()));
  const kernels::UpdateNumbers numbers =
      kernels::update_numbers(rule, lr * param.factors.rate, param.grad_scale, step);
  kDirects[numbers.optimizer](param, numbers.numbers, numbers.lr);
}

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
    bytes += 12 * double(state.value.size()) +
             8 * double(state.exp_avg.size() + state.exp_avg_sq.size());
    if (state.compute != nullptr) bytes += 2 * double(state.value.size());
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
    bytes += double(piece.count) *
             (8 + 2 * (int(rule.optimizer->exp_avg) + int(rule.optimizer->exp_avg_sq)));
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
