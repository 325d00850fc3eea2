// The optimizer step on weights that are kept in bf16 alone, with moments in 8 bits or fp32. Plain
// arrays, no LibTorch.
#pragma once

#include <cstdint>
#include <span>

#include "ops/kernels/codes.h"
#include "ops/optimizer.h"

namespace gigagpt::ops {

// A moment of up to a block of elements: fp32 values, or a whole block's codes and their scale.
struct CompactMoment {
  float* values = nullptr;
  uint8_t* codes = nullptr;
  float* scale = nullptr;
};

// Elements of one parameter that lie in one block of kCodeBlock elements of its layer.
struct CompactPiece {
  int64_t first = 0;  // element of the layer
  size_t count = 0;
  kernels::Bf16* rounded = nullptr;  // weights, rounded at random; or
  float* plain = nullptr;            // in fp32
  const float* grad = nullptr;       // or
  const kernels::Bf16* narrow_grad = nullptr;
  CompactMoment exp_avg = {}, exp_avg_sq = {};  // null if it is not kept
  ParamFactors factors = {};
};

// The formulas of ops/optimizer.h, computed in fp32 from what the state stands for. The new bits
// depend on the old ones, the rule (its seed too), the step, `layer` and the elements' places, not
// on how they are cut into pieces or on the thread.
void update(std::span<const CompactPiece> pieces, const UpdateRule& rule, double lr,
            double grad_scale, int64_t step, uint64_t layer);
// The same bits from the caller's thread alone, which may be one without OpenMP.
void update_alone(std::span<const CompactPiece> pieces, const UpdateRule& rule, double lr,
                  double grad_scale, int64_t step, uint64_t layer);

// A moment's values, from what keeps them and back. In codes there is a whole block.
void read_moment(const CompactMoment& moment, bool positive, size_t count, float* values);
void write_moment(const float* values, bool positive, size_t count, const CompactMoment& moment);

}  // namespace gigagpt::ops
