// Where everything about a model's parameters lies: the order of a layer's elements, the segments
// that it is cut into, and what a segment looks like in a file (docs/FILE_FORMAT.md). Plain
// numbers, no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/layer_spec.h"

namespace gigagpt::engine {

enum class Precision { kFp32, kBf16 };

// What is kept of each element, in fp32.
enum class Kept { kMaster, kExpAvg, kExpAvgSq, kGradient };

// The elements of one layer: matrices in the order of its spec, then vectors. What is multiplied,
// the working weights, are in bf16 the matrices rounded to bf16 and the vectors in fp32; in fp32
// they are the master weights themselves.
struct LayerLayout {
  std::vector<int64_t> offsets;                      // of each parameter, in elements
  int64_t matrices = 0;                              // elements up to the first vector, padded
  int64_t size = 0;                                  // elements in all, padded
  std::vector<std::pair<int64_t, int64_t>> padding;  // begin and end of what is in no parameter
};

// A range of a layer's elements that is read and written as a whole.
struct Segment {
  size_t layer = 0;
  int64_t begin = 0, count = 0;  // elements, of which there are whole blocks
};

// A segment's place in a file: offsets in bytes from the start of its slot. The parts lie in this
// order; those before `info` end where it begins, whatever the segment's size, so that `info` is at
// the same place in every slot. In fp32 the working weights are the master weights.
struct SlotParts {
  uint64_t gradient_info = 0;  // a block that describes the gradient
  uint64_t gradient = 0, exp_avg = 0, exp_avg_sq = 0, master = 0;
  uint64_t info = 0;  // a block that describes the other parts
  uint64_t working = 0;
  uint64_t end = 0;
  uint64_t state = 0;        // where all but the gradient begins; it reaches to `end`
  uint64_t array_bytes = 0;  // of each fp32 part
  uint64_t at(Kept kept) const;
  std::span<std::byte> state_in(std::byte* slot) const { return {slot + state, end - state}; }
};

class StateLayout {
 public:
  static constexpr int64_t kSegmentElements = 1 << 20;  // 18 MiB in bf16
  struct Place {
    size_t layer;
    size_t param;
  };

  // Without `training` only working weights are kept. Segments have at most `segment_elements`,
  // a multiple of 2048; 0: a layer is one segment.
  StateLayout(std::vector<LayerSpec> specs, Precision precision, bool training,
              int64_t segment_elements);

  Precision precision() const { return precision_; }
  bool training() const { return training_; }
  int64_t segment_elements() const { return segment_elements_; }
  size_t layer_count() const { return specs_.size(); }
  const LayerSpec& spec(size_t layer) const { return specs_[layer]; }
  const LayerLayout& layer(size_t layer) const { return layers_[layer]; }

  // A parameter by its full name; asserts that it exists.
  Place place(const std::string& name) const;
  bool contains(const std::string& name) const { return places_.contains(name); }
  const ParamSpec& param(Place place) const { return specs_[place.layer].params[place.param]; }
  int64_t offset(Place place) const { return layers_[place.layer].offsets[place.param]; }

  // Where an element of a layer lies in its working weights, in bytes.
  uint64_t working_at(size_t layer, int64_t element) const;
  uint64_t working_bytes(size_t layer) const { return working_at(layer, layers_[layer].size); }
  uint64_t gradient_bytes(size_t layer) const { return 4 * uint64_t(layers_[layer].size); }

  // All segments, those of a layer side by side.
  std::span<const Segment> segments() const { return segments_; }
  size_t first_segment(size_t layer) const { return first_segments_[layer]; }
  size_t segment_count(size_t layer) const {
    return first_segments_[layer + 1] - first_segments_[layer];
  }
  size_t segment_of(size_t layer, int64_t element) const {
    return first_segments_[layer] + size_t(element / segment_elements_);
  }
  SlotParts slot_parts(const Segment& segment) const;
  uint64_t slot_bytes() const { return slot_bytes_; }    // the largest end
  uint64_t info_offset() const { return info_offset_; }  // SlotParts::info, in every slot

 private:
  std::vector<LayerSpec> specs_;
  Precision precision_;
  bool training_;
  int64_t segment_elements_;
  std::vector<LayerLayout> layers_;
  std::map<std::string, Place> places_;
  std::vector<Segment> segments_;
  std::vector<size_t> first_segments_;  // per layer, and one more
  uint64_t info_offset_ = 0, slot_bytes_ = 0;
};

}  // namespace gigagpt::engine
