// Rotary position embedding.
#include <ATen/ops/empty.h>

#include <cmath>
#include <numbers>

#include "base/error.h"
#include "base/trace.h"
#include "ops/autograd.h"
#include "ops/kernels/rows.h"
#include "ops/ops.h"
#include "ops/parallel.h"
#include "ops/pointers.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

// The angle by which a pair turns from one position to the next.
double frequency(const RopeRule& rule, int64_t pair, int64_t D) {
  const double plain = std::pow(rule.theta, -2.0 * double(pair) / double(D));
  if (rule.factor == 1) return plain;
  const double wavelengths = double(rule.original_positions) * plain / (2 * std::numbers::pi);
  const double low = rule.low_frequency_factor, high = rule.high_frequency_factor;
  if (wavelengths <= low) return plain / rule.factor;
  if (wavelengths >= high) return plain;
  const double share = (wavelengths - low) / (high - low);
  return plain * ((1 - share) / rule.factor + share);
}

// Cosines and sines [positions, D / 2] each, kept for the layers and passes that have one rule.
struct Table {
  RopeRule rule;
  int64_t D = 0, positions = 0;
  std::vector<float> cosines, sines;
};

const Table& table_for(const RopeRule& rule, int64_t D, int64_t positions) {
  static thread_local Table own;
  Table& kept = own;  // the threads of a loop have others
  if (kept.rule == rule && kept.D == D && kept.positions >= positions) return kept;
  kept = {rule, D, positions, {}, {}};
  const int64_t half = D / 2;
  kept.cosines.resize(size_t(positions * half));
  kept.sines.resize(kept.cosines.size());
  std::vector<double> frequencies;
  for (int64_t i = 0; i < half; ++i) frequencies.push_back(frequency(rule, i, D));
  parallel_parts(size_t(positions), 64, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin * size_t(half); i < end * size_t(half); ++i) {
      const size_t position = i / size_t(half);
      const double angle = double(position) * frequencies[i % size_t(half)];
      kept.cosines[i] = float(std::cos(angle));
      kept.sines[i] = float(std::sin(angle));
    }
  });
  return kept;
}

// All heads of each token; back by the same angles with a sign of -1.
Tensor rotate(const Tensor& x, const Table& table, const Tensor& positions, float sign) {
  const auto T = size_t(x.size(1)), H = size_t(x.size(2)), D = size_t(x.size(3)), half = D / 2;
  const Tensor y = at::empty(x.sizes(), x.options());
  const int64_t* places = positions.defined() ? positions.data_ptr<int64_t>() : nullptr;
  dispatch_type(x, [&](auto element) {
    using E = decltype(element);
    const auto turn = kernels::row_kernels<E>().rotate;
    parallel_parts(size_t(x.size(0)) * T, 8, [&](size_t begin, size_t end, size_t) {
      for (size_t i = begin; i < end; ++i) {
        const size_t at = (places != nullptr ? size_t(places[i]) : i % T) * half;
        for (size_t from = i * H * D; from < (i + 1) * H * D; from += D) {
          turn(data<E>(x) + from, table.cosines.data() + at, table.sines.data() + at, sign, half,
               data<E>(y) + from);
        }
      }
    });
  });
  return y;
}

}  // namespace

Tensor rope(const Tensor& x_any, const RopeRule& rule, const Tensor& positions_any) {
  const Zone zone("rope forward");
  Recording recording({x_any});
  const int64_t D = x_any.size(3);
  GIGAGPT_ASSERT(D % 2 == 0);
  Tensor positions;  // B T
  int64_t count = x_any.size(1);
  if (positions_any.defined()) {
    positions = positions_any.contiguous();
    count = positions.max().item<int64_t>() + 1;
  }
  const Tensor y = rotate(x_any.contiguous(), table_for(rule, D, count), positions, 1);
  recording.record({y}, [=](const std::vector<Tensor>& gradients) {
    const Zone zone("rope backward");
    return std::vector{rotate(gradients[0].contiguous(), table_for(rule, D, count), positions, -1)};
  });
  return y;
}

}  // namespace gigagpt::ops
