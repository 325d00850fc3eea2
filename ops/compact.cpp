#include "ops/compact.h"

#include <algorithm>

#include "base/random.h"

namespace gigagpt::ops {

using kernels::kCodeBlock;

CompactUpdater::CompactUpdater(const UpdateRule& rule, double lr, double grad_scale, int64_t step,
                               uint64_t layer)
    : update_(rule, lr, grad_scale, step),
      sgd_(rule.sgd),
      key_(mix(mix(mix(rule.seed, hash_name("rounding")), uint64_t(step)), layer)) {}

void CompactUpdater::operator()(const CompactPiece& piece) const {
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
  float* exp_avg_sq = sgd_ ? nullptr : plain(piece.exp_avg_sq, true, v);
  update_({{w, n}, {grad, n}, {exp_avg, n}, {exp_avg_sq, n}, nullptr, piece.decays}, 0, n);
  if (exp_avg == m) write_moment(m, false, n, piece.exp_avg);
  if (exp_avg_sq == v) write_moment(v, true, n, piece.exp_avg_sq);
  if (piece.rounded == nullptr) return;
  const uint64_t block = uint64_t(piece.first) / kCodeBlock;
  if (n == kCodeBlock)
    return kernels::code_kernels().round_at_random(w, key_, block, piece.rounded);
  std::fill(weights, weights + at, 0.0F);
  std::fill(weights + at + n, weights + kCodeBlock, 0.0F);
  alignas(64) kernels::Bf16 all[kCodeBlock];
  kernels::code_kernels().round_at_random(weights, key_, block, all);
  std::copy_n(all + at, n, piece.rounded);
}

void read_moment(const CompactMoment& moment, bool positive, size_t count, float* values) {
  if (moment.codes == nullptr) {
    std::copy_n(moment.values, count, values);
    return;
  }
  const kernels::CodeKernels& code = kernels::code_kernels();
  (positive ? code.decode_positive : code.decode)(moment.codes, *moment.scale, values);
}

void write_moment(const float* values, bool positive, size_t count, const CompactMoment& moment) {
  if (moment.codes == nullptr) {
    std::copy_n(values, count, moment.values);
    return;
  }
  const kernels::CodeKernels& code = kernels::code_kernels();
  *moment.scale = (positive ? code.encode_positive : code.encode)(values, moment.codes);
}

}  // namespace gigagpt::ops
