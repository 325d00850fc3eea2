// The arithmetic on a segment's arrays, whichever memory they are in.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/state_layout.h"
#include "ops/optimizer.h"

namespace gigagpt::engine {

// Each begins with the segment's first element.
struct SegmentArrays {
  float* master = nullptr;
  float* gradient = nullptr;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  std::byte* working = nullptr;  // the master weights themselves in fp32
};

// What an optimizer step goes over: the parts of parameters that lie in the segment. Working
// matrices are written with it; the vectors are left to copy_vectors().
std::vector<ops::ParamState> param_states(const StateLayout& layout, const Segment& segment,
                                          const SegmentArrays& arrays);
void copy_vectors(const StateLayout& layout, const Segment& segment, const SegmentArrays& arrays);

// The array that holds it; null if none does.
float* array_of(Kept kept, const SegmentArrays& arrays);

// Working weights from master weights, and back as far as they hold them: elements from `first` of
// a layer that lie in one parameter; `working` is where the first of them is.
void to_working(const StateLayout& layout, size_t layer, int64_t first,
                std::span<const float> values, std::byte* working);
void from_working(const StateLayout& layout, size_t layer, int64_t first, const std::byte* working,
                  std::span<float> values);

}  // namespace gigagpt::engine
