#include "ops/compact.h"

#include <algorithm>

#include "base/random.h"
#include "ops/kernels/optimizer.h"

namespace gigagpt::ops {
namespace {

using kernels::kCodeBlock;

// `key` is that of random rounding.
void update_piece(const CompactPiece& piece, const kernels::UpdateNumbers& numbers, uint64_t key) {
  // Elements have the places in these that they have in their block.
  alignas(64) float weights[kCodeBlock], grads[kCodeBlock], m[kCodeBlock], v[kCodeBlock];
  const size_t at = size_t(piece.first) % kCodeBlock, n = piece.count;
  const float* grad = piece.grad;
  if (piece.narrow_grad != nullptr) {
    for (size_t i = 0; i < n; ++i) grads[i] = kernels::to_float(piece.narrow_grad[i]);
    grad = grads;
  }
  float* w = piece.plain;
  if (piece.rounded != nullptr) {
    w = weights + at;
    for (size_t i = 0; i < n; ++i) w[i] = kernels::to_float(piece.rounded[i]);
  }
  const auto plain = [&](const CompactMoment& moment, bool positive, float* decoded) {
    if (moment.codes == nullptr) return moment.values;
    read_moment(moment, positive, n, decoded);
    return decoded;
  };
  float* exp_avg = plain(piece.exp_avg, false, m);
  float* exp_avg_sq = plain(piece.exp_avg_sq, true, v);
  kernels::update({{w, n}, {grad, n}, {exp_avg, n}, {exp_avg_sq, n}, nullptr, piece.factors},
                  numbers, 0, n);
  if (exp_avg == m) write_moment(m, false, n, piece.exp_avg);
  if (exp_avg_sq == v) write_moment(v, true, n, piece.exp_avg_sq);
  if (piece.rounded == nullptr) return;
  const uint64_t block = uint64_t(piece.first) / kCodeBlock;
  if (n == kCodeBlock) return kernels::code_kernels().round_at_random(w, key, block, piece.rounded);
  std::fill(weights, weights + at, 0.0F);
  std::fill(weights + at + n, weights + kCodeBlock, 0.0F);
  alignas(64) kernels::Bf16 all[kCodeBlock];
  kernels::code_kernels().round_at_random(weights, key, block, all);
  std::copy_n(all + at, n, piece.rounded);
}

}  // namespace

void update_alone(std::span<const CompactPiece> pieces, const UpdateRule& rule, double lr,
                  double grad_scale, int64_t step, uint64_t layer) {
  const kernels::UpdateNumbers numbers = kernels::update_numbers(rule, lr, grad_scale, step);
  const uint64_t key = mix(mix(mix(rule.seed, hash_name("rounding")), uint64_t(step)), layer);
  for (const CompactPiece& piece : pieces) update_piece(piece, numbers, key);
}

void read_moment(const CompactMoment& moment, bool positive, size_t count, float* values) {
  if (moment.codes == nullptr) {
    std::copy_n(moment.values, count, values);
    return;
  }
  kernels::code_kernels().decode[size_t(positive)](moment.codes, *moment.scale, values);
}

void write_moment(const float* values, bool positive, size_t count, const CompactMoment& moment) {
  if (moment.codes == nullptr) {
    std::copy_n(values, count, moment.values);
    return;
  }
  *moment.scale = kernels::code_kernels().encode[size_t(positive)](values, moment.codes);
}

}  // namespace gigagpt::ops
