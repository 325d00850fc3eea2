#include "engine/state_layout.h"

#include <algorithm>

#include "base/error.h"

namespace gigagpt::engine {
namespace {

constexpr int64_t kParamElements = 16;     // parameters begin on a cache line
constexpr int64_t kMatrixElements = 2048;  // of bf16 in a block of the file
constexpr int64_t kBlockElements = 1024;   // of fp32
constexpr uint64_t kInfoBytes = 4096;

int64_t padded(int64_t count, int64_t to) {
  return (count + to - 1) / to * to;
}

LayerLayout lay_out(const LayerSpec& spec) {
  LayerLayout layer;
  layer.offsets.resize(spec.params.size());
  const auto pad = [&](int64_t to) {
    const int64_t end = padded(layer.size, to);
    if (end > layer.size) layer.padding.emplace_back(layer.size, end);
    layer.size = end;
  };
  const auto place = [&](bool matrices) {
    for (size_t p = 0; p < spec.params.size(); ++p) {
      if ((spec.params[p].shape.size() >= 2) != matrices) continue;
      layer.offsets[p] = layer.size;
      layer.size += spec.params[p].count();
      pad(kParamElements);
    }
  };
  place(true);
  pad(kMatrixElements);
  layer.matrices = layer.size;
  place(false);
  pad(kBlockElements);
  return layer;
}

}  // namespace

uint64_t SlotParts::at(Kept kept) const {
  switch (kept) {
    case Kept::kMaster:
      return master;
    case Kept::kExpAvg:
      return exp_avg;
    case Kept::kExpAvgSq:
      return exp_avg_sq;
    case Kept::kGradient:
      return gradient;
  }
  return 0;
}

StateLayout::StateLayout(std::vector<LayerSpec> specs, Precision precision, bool training,
                         int64_t segment_elements)
    : specs_(std::move(specs)),
      precision_(precision),
      training_(training),
      segment_elements_(segment_elements) {
  GIGAGPT_ASSERT(segment_elements % kMatrixElements == 0);
  int64_t largest = 0;
  for (size_t i = 0; i < specs_.size(); ++i) {
    for (size_t p = 0; p < specs_[i].params.size(); ++p) {
      const auto [_, fresh] =
          places_.emplace(specs_[i].prefix + specs_[i].params[p].name, Place{i, p});
      GIGAGPT_ASSERT(fresh);
    }
    // So a layer's gradient is complete when the backward pass has been through it.
    for (const std::string& name : specs_[i].shared) GIGAGPT_ASSERT(place(name).layer < i);
    layers_.push_back(lay_out(specs_[i]));
    largest = std::max(largest, layers_.back().size);
  }
  if (segment_elements_ == 0) segment_elements_ = padded(largest, kMatrixElements);
  for (size_t i = 0; i < layers_.size(); ++i) {
    first_segments_.push_back(segments_.size());
    for (int64_t begin = 0; begin < layers_[i].size; begin += segment_elements_) {
      segments_.push_back({i, begin, std::min(segment_elements_, layers_[i].size - begin)});
    }
  }
  first_segments_.push_back(segments_.size());
  const uint64_t arrays = !training_ ? 0 : precision_ == Precision::kBf16 ? 4 : 3;
  int64_t most = 0;
  for (const Segment& segment : segments_) most = std::max(most, segment.count);
  if (training_) info_offset_ = kInfoBytes + arrays * 4 * uint64_t(most);
  for (const Segment& segment : segments_) {
    slot_bytes_ = std::max(slot_bytes_, slot_parts(segment).end);
  }
}

StateLayout::Place StateLayout::place(const std::string& name) const {
  const auto found = places_.find(name);
  GIGAGPT_ASSERT(found != places_.end());
  return found->second;
}

uint64_t StateLayout::working_at(size_t layer, int64_t element) const {
  if (precision_ == Precision::kFp32) return 4 * uint64_t(element);
  const int64_t in_matrices = std::min(element, layers_[layer].matrices);
  return 2 * uint64_t(in_matrices) + 4 * uint64_t(element - in_matrices);
}

SlotParts StateLayout::slot_parts(const Segment& segment) const {
  SlotParts parts;
  parts.array_bytes = 4 * uint64_t(segment.count);
  parts.info = info_offset_;
  parts.working = info_offset_ + kInfoBytes;
  const uint64_t working = working_at(segment.layer, segment.begin + segment.count) -
                           working_at(segment.layer, segment.begin);
  parts.end = parts.working + padded(int64_t(working), int64_t(kInfoBytes));
  parts.state = parts.info;
  if (!training_) return parts;
  const bool copies = precision_ == Precision::kBf16;
  parts.master = copies ? parts.info - parts.array_bytes : parts.working;
  parts.exp_avg_sq = (copies ? parts.master : parts.info) - parts.array_bytes;
  parts.exp_avg = parts.exp_avg_sq - parts.array_bytes;
  parts.state = parts.exp_avg;
  parts.gradient = parts.exp_avg - parts.array_bytes;
  parts.gradient_info = parts.gradient - kInfoBytes;
  return parts;
}

}  // namespace gigagpt::engine
