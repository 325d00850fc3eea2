#include "engine/segment_math.h"

#include <algorithm>
#include <cstring>

namespace gigagpt::engine {
namespace {

using ops::kernels::Bf16;

// Of the segment's elements those in matrices; the others are in vectors.
int64_t matrix_count(const StateLayout& layout, const Segment& segment) {
  const int64_t matrices = layout.layer(segment.layer).matrices;
  return std::clamp<int64_t>(matrices - segment.begin, 0, segment.count);
}

bool is_rounded(const StateLayout& layout, size_t layer, int64_t element) {
  return layout.precision() == Precision::kBf16 && element < layout.layer(layer).matrices;
}

}  // namespace

std::vector<ops::ParamState> param_states(const StateLayout& layout, const Segment& segment,
                                          const SegmentArrays& arrays) {
  std::vector<ops::ParamState> states;
  const LayerSpec& spec = layout.spec(segment.layer);
  for (size_t p = 0; p < spec.params.size(); ++p) {
    const int64_t first = layout.layer(segment.layer).offsets[p];
    const int64_t begin = std::max(first, segment.begin) - segment.begin;
    const int64_t end =
        std::min(first + spec.params[p].count(), segment.begin + segment.count) - segment.begin;
    if (begin >= end) continue;
    const size_t count = size_t(end - begin);
    const bool matrix = spec.params[p].shape.size() >= 2;
    const bool copy = matrix && layout.precision() == Precision::kBf16;
    states.push_back({{arrays.master + begin, count},
                      {arrays.gradient + begin, count},
                      {arrays.exp_avg + begin, count},
                      {arrays.exp_avg_sq + begin, count},
                      copy ? reinterpret_cast<Bf16*>(arrays.working) + begin : nullptr,
                      /*decays=*/matrix});
  }
  return states;
}

void copy_vectors(const StateLayout& layout, const Segment& segment, const SegmentArrays& arrays) {
  if (layout.precision() == Precision::kFp32) return;
  const int64_t matrices = matrix_count(layout, segment);
  std::memcpy(arrays.working + 2 * matrices, arrays.master + matrices,
              4 * size_t(segment.count - matrices));
}

float* array_of(Kept kept, const SegmentArrays& arrays) {
  switch (kept) {
    case Kept::kMaster:
      return arrays.master;
    case Kept::kExpAvg:
      return arrays.exp_avg;
    case Kept::kExpAvgSq:
      return arrays.exp_avg_sq;
    case Kept::kGradient:
      return arrays.gradient;
  }
  return nullptr;
}

void to_working(const StateLayout& layout, size_t layer, int64_t first,
                std::span<const float> values, std::byte* working) {
  if (!is_rounded(layout, layer, first)) {
    std::memcpy(working, values.data(), values.size_bytes());
    return;
  }
  auto* rounded = reinterpret_cast<Bf16*>(working);
  for (size_t i = 0; i < values.size(); ++i) rounded[i] = ops::kernels::to_bf16(values[i]);
}

void from_working(const StateLayout& layout, size_t layer, int64_t first, const std::byte* working,
                  std::span<float> values) {
  if (!is_rounded(layout, layer, first)) {
    std::memcpy(values.data(), working, values.size_bytes());
    return;
  }
  const auto* rounded = reinterpret_cast<const Bf16*>(working);
  for (size_t i = 0; i < values.size(); ++i) values[i] = ops::kernels::to_float(rounded[i]);
}

}  // namespace gigagpt::engine
