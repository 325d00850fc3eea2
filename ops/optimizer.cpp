#include "ops/optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace gigagpt::ops {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements a thread takes at once

void adamw(const ParamState& s, const UpdateRule& rule, double lr, double grad_scale, int64_t step,
           int64_t begin, int64_t end) {
  const auto keep = static_cast<float>(1.0 - lr * rule.weight_decay);
  const auto scale = static_cast<float>(grad_scale);
  const auto b1 = static_cast<float>(rule.beta1), b2 = static_cast<float>(rule.beta2);
  const auto c1 = static_cast<float>(1.0 - rule.beta1), c2 = static_cast<float>(1.0 - rule.beta2);
  const auto rate = static_cast<float>(lr / (1.0 - std::pow(rule.beta1, double(step))));
  const auto v_scale =
      static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(rule.beta2, double(step))));
  const auto eps = static_cast<float>(rule.epsilon);
  float* __restrict w = s.value.data();
  float* __restrict m = s.exp_avg.data();
  float* __restrict v = s.exp_avg_sq.data();
  const float* __restrict g = s.grad.data();
  for (int64_t i = begin; i < end; ++i) {
    const float gi = g[i] * scale;
    m[i] = b1 * m[i] + c1 * gi;
    v[i] = b2 * v[i] + c2 * gi * gi;
    w[i] = w[i] * keep - rate * m[i] / (std::sqrt(v[i]) * v_scale + eps);
  }
}

void sgd(const ParamState& s, const UpdateRule& rule, double lr, double grad_scale, int64_t begin,
         int64_t end) {
  const auto keep = static_cast<float>(1.0 - lr * rule.weight_decay);
  const auto scale = static_cast<float>(grad_scale), b1 = static_cast<float>(rule.beta1);
  const auto rate = static_cast<float>(lr);
  for (auto i = size_t(begin); i < size_t(end); ++i) {
    s.exp_avg[i] = b1 * s.exp_avg[i] + s.grad[i] * scale;
    s.value[i] = s.value[i] * keep - rate * s.exp_avg[i];
  }
}

}  // namespace

void update(const ParamState& state, const UpdateRule& rule, double lr, double grad_scale,
            int64_t step) {
  const auto count = static_cast<int64_t>(state.value.size());
  at::parallel_for(0, count, kChunk, [&](int64_t begin, int64_t end) {
    if (rule.sgd)
      sgd(state, rule, lr, grad_scale, begin, end);
    else
      adamw(state, rule, lr, grad_scale, step, begin, end);
  });
}

double sum_of_squares(std::span<const float> values) {
  const int64_t chunks = (static_cast<int64_t>(values.size()) + kChunk - 1) / kChunk;
  std::vector<double> partial(static_cast<size_t>(chunks));
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (auto chunk = size_t(begin); chunk < size_t(end); ++chunk) {
      const auto part = values.subspan(chunk * kChunk)
                            .first(std::min<size_t>(kChunk, values.size() - chunk * kChunk));
      double sum = 0;
      for (const float v : part) sum += double(v) * double(v);
      partial[chunk] = sum;
    }
  });
  return std::accumulate(partial.begin(), partial.end(), 0.0);
}

}  // namespace gigagpt::ops
