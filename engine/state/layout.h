// Where everything about a model's parameters lies: the order of a layer's elements, the segments
// that it is cut into, and what a segment looks like in a file (docs/FILE_FORMAT.md). Plain
// numbers, no LibTorch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/async_file.h"
#include "engine/state/layer_spec.h"
#include "ops/kernels/codes.h"
#include "ops/optimizers/adamw.h"

namespace gigagpt::engine {

enum class Precision { kFp32, kBf16 };

inline const char* precision_name(Precision precision) {
  return precision == Precision::kBf16 ? "bf16" : "fp32";
}
// The bytes of an element that is multiplied.
inline int64_t element_bytes(Precision precision) {
  return precision == Precision::kBf16 ? 2 : 4;
}

// Bytes in a file, rounded up to blocks.
inline uint64_t whole_blocks(uint64_t bytes) {
  return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

// What is kept of each element.
enum class Array { kMaster, kExpAvg, kExpAvgSq, kGradient, kWorking };

// How a file keeps gradients between the backward pass and the update: what was added up in fp32,
// that rounded to bf16, or not at all, as layers are updated in the backward pass. Without fp32
// there is one window a step, and a gradient that several layers add to waits in memory.
enum class GradientForm { kFp32, kBf16, kNone };

// Segments of the usual size that are on their way through an update at once.
constexpr size_t kUpdateBuffers = 8;

// Elements of a compact moment that share a scale.
constexpr auto kCodeElements = int64_t(ops::kernels::kCodeBlock);

// In what form the state of a model is kept.
struct StateForm {
  Precision precision = Precision::kFp32;
  bool training = false;  // else there are working weights alone
  // bf16 weights without masters, moments in 8 bits (ops/compact.h). Needs bf16.
  bool compact = false;
  GradientForm gradient = GradientForm::kFp32;
  const ops::Optimizer* optimizer = &ops::AdamW::kInfo;  // which decides what is kept

  // Whether anything is kept of that kind, and of a parameter how many numbers.
  bool keeps(Array array) const;
  int64_t kept_count(const ParamSpec& param, Array array) const;
  std::vector<int64_t> kept_shape(const ParamSpec& param, Array array) const;
  // Whether updates need all of the parameter at once, so that it is in one segment.
  bool needs_whole(const ParamSpec& param) const;
  // Whether there are master weights beside the working ones.
  bool has_masters() const { return training && precision == Precision::kBf16 && !compact; }
  bool operator==(const StateForm&) const = default;
};

// The elements of one layer: matrices in the order of its spec, then vectors and what else is used
// in fp32. What is multiplied, the working weights, are in bf16 the matrices rounded to bf16 and
// the rest in fp32; in fp32 they are the master weights themselves. In compact form large matrices
// come first, else those that are needed whole.
struct LayerLayout {
  std::vector<int64_t> offsets;                      // of each parameter, in elements
  int64_t coded = 0;                                 // elements with moments in 8 bits, padded
  int64_t matrices = 0;                              // elements up to the first vector, padded
  int64_t size = 0;                                  // elements in all, padded
  std::vector<std::pair<int64_t, int64_t>> padding;  // begin and end of what is in no parameter

  // A parameter that is not cut, with its padding.
  struct Whole {
    size_t param;
    int64_t begin, end;
  };
  std::vector<Whole> whole;  // in their order
};

// Which of the systems that train together this is. Each has all working weights, and of a layer's
// elements one stretch whose state it keeps: its shard.
struct Shard {
  int rank = 0;
  int systems = 1;
  bool operator==(const Shard&) const = default;
};

// A range of a layer's elements that is read and written as a whole, or sent.
struct Segment {
  size_t layer = 0;
  int64_t begin = 0, count = 0;  // elements, of which there are whole blocks
  int owner = 0;                 // the system that keeps its state

  int64_t end() const { return begin + count; }
  // What lies in it of a range of its layer's elements; count is 0 if nothing does.
  Segment overlap(int64_t first, int64_t elements) const {
    const int64_t from = std::max(begin, first);
    return {layer, from, std::max<int64_t>(0, std::min(end(), first + elements) - from), owner};
  }
};

// One array of a segment: where in its slot it begins, and how much of it is used.
struct SlotPart {
  uint64_t at = 0, size_bytes = 0;
};

// A segment's place in a file: offsets in bytes from the start of its slot. The parts lie in this
// order; those before `info` end where it begins, whatever the segment's size, so that `info` is at
// the same place in every slot. Without masters of their own the working weights are those. Of a
// segment of another system there are working weights and, in fp32, the gradient.
struct SlotParts {
  uint64_t gradient_info = 0;  // a block that describes the gradient
  SlotPart gradient, exp_avg, exp_avg_sq, master;
  uint64_t info = 0;  // a block that describes the other parts
  SlotPart working;
  uint64_t end = 0;
  uint64_t state = 0;  // where all but the gradient begins; it reaches to `end`
  const SlotPart& of(Array kept) const;
  std::span<std::byte> state_in(std::byte* slot) const { return {slot + state, end - state}; }
};

class StateLayout {
 public:
  static constexpr int64_t kSegmentElements = 1 << 20;  // 18 MiB in bf16
  struct Place {
    size_t layer;
    size_t param;
  };

  // Segments have at most `segment_elements`, a multiple of 2048; 0: a layer is one segment. None
  // has elements of two shards. With parameters that are needed whole they may be larger.
  StateLayout(std::vector<LayerSpec> specs, const StateForm& form, int64_t segment_elements,
              const Shard& shard = {});

  const StateForm& form() const { return form_; }
  Precision precision() const { return form_.precision; }
  bool training() const { return form_.training; }
  int64_t segment_elements() const { return segment_elements_; }
  // What a segment has at most: more, if parameters are needed whole.
  int64_t most_elements() const { return most_elements_; }
  const Shard& shard() const { return shard_; }
  size_t layer_count() const { return specs_.size(); }
  const LayerSpec& spec(size_t layer) const { return specs_[layer]; }
  const std::vector<LayerSpec>& specs() const { return specs_; }
  const LayerLayout& layer(size_t layer) const { return layers_[layer]; }

  // A parameter by its full name; asserts that it exists.
  Place place(const std::string& name) const;
  const ParamSpec& param(Place place) const { return specs_[place.layer].params[place.param]; }
  int64_t offset(Place place) const { return layers_[place.layer].offsets[place.param]; }
  // The element after its last, and after the padding of one that is needed whole.
  int64_t end(Place place) const;

  // The other layers whose parameters a layer uses too, each once.
  std::vector<size_t> owners_of_shared(size_t layer) const;

  // Where an element of a layer lies in its working weights, in bytes.
  uint64_t working_at(size_t layer, int64_t element) const;
  uint64_t working_bytes(size_t layer) const { return working_at(layer, layers_[layer].size); }
  uint64_t working_bytes(const Segment& segment) const {
    return working_at(segment.layer, segment.end()) - working_at(segment.layer, segment.begin);
  }
  // Of a gradient while it is added up, in fp32.
  uint64_t gradient_bytes(size_t layer) const { return 4 * uint64_t(layers_[layer].size); }
  // Of what the optimizer keeps of a segment in one of its arrays.
  uint64_t kept_bytes(const Segment& segment, Array array) const;
  // In full form, how many numbers are kept of the layer's elements before one.
  int64_t kept_before(size_t layer, Array array, int64_t element) const;
  // Of the segment's elements those whose moments are in 8 bits, and those in matrices.
  int64_t coded_in(const Segment& segment) const;
  int64_t matrices_in(const Segment& segment) const;

  // All segments, those of a layer side by side.
  std::span<const Segment> segments() const { return segments_; }
  size_t first_segment(size_t layer) const { return first_segments_[layer]; }
  size_t segment_count(size_t layer) const {
    return first_segments_[layer + 1] - first_segments_[layer];
  }
  size_t segment_of(size_t layer, int64_t element) const;
  bool is_own(const Segment& segment) const { return segment.owner == shard_.rank; }
  // The segments of this system; and how many come before one, of this system or of the others as
  // it is itself.
  size_t own_segments() const { return own_segments_; }
  size_t place_of(size_t segment) const { return places_of_segments_[segment]; }
  // Calls visit(parameter, its elements in the segment) for each that has some there.
  template <class Visit>
  void for_each_parameter(const Segment& segment, const Visit& visit) const {
    const auto& params = spec(segment.layer).params;
    for (size_t p = 0; p < params.size(); ++p) {
      const Segment piece = segment.overlap(layer(segment.layer).offsets[p], params[p].count());
      if (piece.count > 0) visit(params[p], piece);
    }
  }
  // A system's part of a layer in one piece; this system's.
  Segment shard_of(size_t layer, int rank) const;
  Segment shard_of(size_t layer) const { return shard_of(layer, shard_.rank); }

  SlotParts slot_parts(const Segment& segment) const {
    return slot_parts(segment, is_own(segment),
                      is_own(segment) ? info_offset_ : others_info_offset_);
  }
  uint64_t slot_bytes() const { return slot_bytes_; }  // the largest end
  // That of all systems' files; at least a block.
  uint64_t most_slot_bytes() const { return most_slot_bytes_; }
  uint64_t info_offset() const { return info_offset_; }  // SlotParts::info, in every slot
  // The same for segments of other systems.
  uint64_t others_slot_bytes() const { return others_slot_bytes_; }
  // Slots that it takes to have some on their way through an update at once.
  size_t update_buffers() const;

 private:
  int64_t stretch_begin(size_t layer, int stretch) const;
  int stretch_of(size_t layer, int rank) const;
  const LayerLayout::Whole* whole_around(size_t layer, int64_t element) const;
  int64_t segment_end(size_t layer, int64_t begin, int64_t shard_end) const;
  void cut();
  SlotParts slot_parts(const Segment& segment, bool own, uint64_t info) const;
  void measure_slots();

  std::vector<LayerSpec> specs_;
  StateForm form_;
  int64_t segment_elements_;
  int64_t most_elements_ = 0;  // of a segment
  bool has_whole_ = false;
  std::vector<LayerLayout> layers_;
  std::map<std::string, Place> places_;
  std::vector<Segment> segments_;
  std::vector<size_t> first_segments_;  // per layer, and one more
  Shard shard_;
  std::vector<size_t> places_of_segments_;  // among those of this system, or among the others
  size_t own_segments_ = 0;
  uint64_t info_offset_ = 0, slot_bytes_ = 0, most_slot_bytes_ = 0;
  uint64_t others_info_offset_ = 0, others_slot_bytes_ = 0;
};

}  // namespace gigagpt::engine
