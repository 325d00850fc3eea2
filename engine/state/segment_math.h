// The arithmetic on a segment's arrays, whichever memory they are in.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/state/layout.h"
#include "engine/state/update.h"
#include "ops/compact.h"

namespace gigagpt::engine {

// Each begins with the segment's first element, as in SlotParts.
struct SegmentArrays {
  std::byte* master = nullptr;  // the working weights if they are the masters
  std::byte* gradient = nullptr;
  std::byte* exp_avg = nullptr;
  std::byte* exp_avg_sq = nullptr;
  std::byte* working = nullptr;
  bool narrow_gradient = false;  // bf16, else fp32
};

// Those of a slot that is in memory as a whole, or in part.
SegmentArrays arrays_in_slot(const StateLayout& layout, const Segment& segment, std::byte* slot);

// What an optimizer step goes over: the parts of parameters that lie in the segment. In full form
// working matrices are written with it; the vectors are left to copy_vectors().
std::vector<ops::ParamState> param_states(const StateLayout& layout, const Segment& segment,
                                          const SegmentArrays& arrays);
void copy_vectors(const StateLayout& layout, const Segment& segment, const SegmentArrays& arrays);
// The same in compact form.
std::vector<ops::CompactPiece> compact_pieces(const StateLayout& layout, const Segment& segment,
                                              const SegmentArrays& arrays);

// The parameters in the segment that the update needs whole: their directions are made first, in
// the place of their gradients.
std::vector<ops::WholeParam> whole_params(const StateLayout& layout, const Segment& segment,
                                          const SegmentArrays& arrays, const Update& update);

// Asserts that what the update's optimizer keeps is there.
void check_kept(const StateLayout& layout, const Update& update);
// One optimizer step of a segment whose directions are made, on the caller's thread alone.
void update_segment_alone(const StateLayout& layout, const Segment& segment,
                          const SegmentArrays& arrays, const Update& update);

// Values from, and to, the arrays: elements from `first` of the layer that lie in the segment and
// in one parameter. Weights go to the masters and, rounded to nearest, to the working weights.
// Moments in 8 bits are read and written from the first element of a block on, to the last of one
// or of the parameter.
void read_values(const StateLayout& layout, const Segment& segment, const SegmentArrays& arrays,
                 Array kept, int64_t first, std::span<float> values);
void write_values(const StateLayout& layout, const Segment& segment, const SegmentArrays& arrays,
                  Array kept, int64_t first, std::span<const float> values);

// Weights to the working weights alone, of which those of the whole layer begin at `working`.
void write_working(const StateLayout& layout, size_t layer, int64_t first,
                   std::span<const float> values, std::byte* working);

// All of a segment's, padding too: what is kept of parameters that are whole lies side by side.
std::vector<float> read_segment(const StateLayout& layout, const Segment& segment,
                                const SegmentArrays& arrays, Array kept);

}  // namespace gigagpt::engine
