#include "engine/state/layout.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace gigagpt::engine {
namespace {

constexpr int64_t kParamElements = 16;     // parameters begin on a cache line
constexpr int64_t kMatrixElements = 2048;  // of bf16 in a block of the file
constexpr int64_t kBlockElements = 1024;   // of fp32
constexpr int64_t kLeastCoded = 4096;      // smaller matrices keep their moments in fp32

int64_t padded(int64_t count, int64_t to) {
  return (count + to - 1) / to * to;
}

LayerLayout lay_out(const LayerSpec& spec, bool compact) {
  LayerLayout layer;
  layer.offsets.resize(spec.params.size());
  const auto pad = [&](int64_t to) {
    const int64_t end = padded(layer.size, to);
    if (end > layer.size) layer.padding.emplace_back(layer.size, end);
    layer.size = end;
  };
  enum Kind { kCodedMatrix, kMatrix, kVector };
  const auto kind_of = [&](const ParamSpec& param) {
    if (!param.is_matrix()) return kVector;
    return compact && param.count() >= kLeastCoded ? kCodedMatrix : kMatrix;
  };
  const auto place = [&](Kind kind, int64_t align) {
    for (size_t p = 0; p < spec.params.size(); ++p) {
      if (kind_of(spec.params[p]) != kind) continue;
      layer.offsets[p] = layer.size;
      layer.size += spec.params[p].count();
      pad(align);
    }
  };
  place(kCodedMatrix, kCodeElements);  // no block of codes has elements of two parameters
  layer.coded = layer.size;
  place(kMatrix, kParamElements);
  pad(kMatrixElements);
  layer.matrices = layer.size;
  place(kVector, kParamElements);
  pad(kBlockElements);
  return layer;
}

}  // namespace

const SlotPart& SlotParts::of(Array kept) const {
  const std::array all = {&master, &exp_avg, &exp_avg_sq, &gradient, &working};
  return *all[size_t(kept)];
}

StateLayout::StateLayout(std::vector<LayerSpec> specs, const StateForm& form,
                         int64_t segment_elements, const Shard& shard)
    : specs_(std::move(specs)), form_(form), segment_elements_(segment_elements), shard_(shard) {
  GIGAGPT_ASSERT(segment_elements % kMatrixElements == 0);
  GIGAGPT_ASSERT(!form.compact || form.precision == Precision::kBf16);
  int64_t largest = 0;
  for (size_t i = 0; i < specs_.size(); ++i) {
    for (size_t p = 0; p < specs_[i].params.size(); ++p) {
      const auto [_, fresh] =
          places_.emplace(specs_[i].prefix + specs_[i].params[p].name, Place{i, p});
      GIGAGPT_ASSERT(fresh);
    }
    // So a layer's gradient is complete when the backward pass has been through it.
    for (const std::string& name : specs_[i].shared) GIGAGPT_ASSERT(place(name).layer < i);
    layers_.push_back(lay_out(specs_[i], form.training && form.compact));
    largest = std::max(largest, layers_.back().size);
  }
  if (segment_elements_ == 0) segment_elements_ = padded(largest, kMatrixElements);
  cut();
  measure_slots();
}

int64_t StateLayout::shard_begin(size_t layer, int rank) const {
  const int64_t size = layers_[layer].size;
  const int64_t blocks = padded(size, kMatrixElements) / kMatrixElements;
  return std::min(size, blocks * rank / shard_.systems * kMatrixElements);
}

void StateLayout::cut() {
  size_t others = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    first_segments_.push_back(segments_.size());
    for (int rank = 0; rank < shard_.systems; ++rank) {
      const int64_t end = shard_begin(i, rank + 1);
      for (int64_t begin = shard_begin(i, rank); begin < end; begin += segment_elements_) {
        segments_.push_back({i, begin, std::min(segment_elements_, end - begin), rank});
        places_of_segments_.push_back(rank == shard_.rank ? own_segments_++ : others++);
      }
    }
  }
  first_segments_.push_back(segments_.size());
}

// With `info` at 0 the parts before it begin below: the lowest of them is where slots begin.
void StateLayout::measure_slots() {
  uint64_t before_info = 0, before_others = 0;
  for (const Segment& segment : segments_) {
    uint64_t& before = is_own(segment) ? before_info : before_others;
    before = std::max(before, 0 - slot_parts(segment).gradient_info);
  }
  info_offset_ = before_info;
  others_info_offset_ = before_others;
  for (const Segment& segment : segments_) {
    uint64_t& bytes = is_own(segment) ? slot_bytes_ : others_slot_bytes_;
    bytes = std::max(bytes, slot_parts(segment).end);
  }
}

Segment StateLayout::shard_of(size_t layer, int rank) const {
  const int64_t begin = shard_begin(layer, rank);
  return {layer, begin, shard_begin(layer, rank + 1) - begin, rank};
}

size_t StateLayout::segment_of(size_t layer, int64_t element) const {
  const auto first = segments_.begin() + int64_t(first_segments_[layer]);
  const auto last = segments_.begin() + int64_t(first_segments_[layer + 1]);
  const auto after = std::upper_bound(
      first, last, element, [](int64_t e, const Segment& segment) { return e < segment.begin; });
  return size_t(after - segments_.begin()) - 1;
}

StateLayout::Place StateLayout::place(const std::string& name) const {
  const auto found = places_.find(name);
  GIGAGPT_ASSERT(found != places_.end());
  return found->second;
}

std::vector<size_t> StateLayout::owners_of_shared(size_t layer) const {
  std::vector<size_t> owners;
  for (const std::string& name : specs_[layer].shared) {
    const size_t owner = place(name).layer;
    if (std::find(owners.begin(), owners.end(), owner) == owners.end()) owners.push_back(owner);
  }
  return owners;
}

uint64_t StateLayout::working_at(size_t layer, int64_t element) const {
  if (precision() == Precision::kFp32) return 4 * uint64_t(element);
  const int64_t in_matrices = std::min(element, layers_[layer].matrices);
  return 2 * uint64_t(in_matrices) + 4 * uint64_t(element - in_matrices);
}

int64_t StateLayout::coded_in(const Segment& segment) const {
  return std::clamp<int64_t>(layers_[segment.layer].coded - segment.begin, 0, segment.count);
}

int64_t StateLayout::matrices_in(const Segment& segment) const {
  return std::clamp<int64_t>(layers_[segment.layer].matrices - segment.begin, 0, segment.count);
}

uint64_t StateLayout::kept_bytes(const Segment& segment, Array array) const {
  if (!form_.keeps(array)) return 0;
  const int64_t coded = coded_in(segment);
  return 4 * uint64_t(segment.count - coded) + 4 * uint64_t(coded / kCodeElements) +
         uint64_t(coded);
}

SlotParts StateLayout::slot_parts(const Segment& segment) const {
  SlotParts parts;
  const bool own = is_own(segment);
  parts.info = own ? info_offset_ : others_info_offset_;
  parts.working = {parts.info + kBlockBytes, working_bytes(segment)};
  parts.end = parts.working.at + whole_blocks(parts.working.size_bytes);
  parts.state = parts.gradient_info = parts.info;
  if (!training()) return parts;
  const auto before = [&](uint64_t end, uint64_t size_bytes) {
    return SlotPart{end - whole_blocks(size_bytes), size_bytes};
  };
  const uint64_t elements = uint64_t(segment.count);
  const bool masters = own && form_.has_masters();
  parts.master = masters ? before(parts.info, 4 * elements) : parts.working;
  const auto kept = [&](uint64_t end, Array array) {
    return before(end, own ? kept_bytes(segment, array) : 0);
  };
  parts.exp_avg_sq = kept(masters ? parts.master.at : parts.info, Array::kExpAvgSq);
  parts.exp_avg = kept(parts.exp_avg_sq.at, Array::kExpAvg);
  parts.state = parts.gradient_info = parts.exp_avg.at;
  // A complete gradient is its owner's; sums of some windows wait here.
  const bool waits =
      own ? form_.gradient != GradientForm::kNone : form_.gradient == GradientForm::kFp32;
  if (!waits) {
    parts.gradient = {parts.exp_avg.at, 0};
    return parts;
  }
  const uint64_t wide = form_.gradient == GradientForm::kFp32 ? 4 : 2;
  parts.gradient = before(parts.exp_avg.at, wide * elements);
  parts.gradient_info = parts.gradient.at - kBlockBytes;
  return parts;
}

}  // namespace gigagpt::engine
