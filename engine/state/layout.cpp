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

LayerLayout lay_out(const LayerSpec& spec, const StateForm& form) {
  LayerLayout layer;
  layer.offsets.resize(spec.params.size());
  const auto pad = [&](int64_t to) {
    const int64_t end = padded(layer.size, to);
    if (end > layer.size) layer.padding.emplace_back(layer.size, end);
    layer.size = end;
  };
  enum Kind { kCodedMatrix, kWholeMatrix, kMatrix, kVector };
  const auto kind_of = [&](const ParamSpec& param) {
    if (!param.is_matrix()) return kVector;
    if (form.needs_whole(param)) return kWholeMatrix;
    const bool coded = form.training && form.compact && param.count() >= kLeastCoded;
    return coded ? kCodedMatrix : kMatrix;
  };
  const auto place = [&](Kind kind, int64_t align) {
    for (size_t p = 0; p < spec.params.size(); ++p) {
      if (kind_of(spec.params[p]) != kind) continue;
      const int64_t begin = layer.offsets[p] = layer.size;
      const bool whole = form.needs_whole(spec.params[p]);
      layer.size += spec.params[p].count();
      pad(whole ? kMatrixElements : align);
      if (whole) layer.whole.push_back({p, begin, layer.size});
    }
  };
  place(kCodedMatrix, kCodeElements);  // no block of codes has elements of two parameters
  layer.coded = layer.size;
  place(kWholeMatrix, kMatrixElements);
  place(kMatrix, kParamElements);
  pad(kMatrixElements);
  layer.matrices = layer.size;
  place(kVector, kParamElements);
  pad(kBlockElements);
  return layer;
}

// Whether the optimizer keeps a moment of single elements, and what of parameters that are whole.
std::pair<bool, ops::Kept> kept_by(const ops::Optimizer& optimizer, Array array) {
  if (array == Array::kExpAvgSq) return {optimizer.exp_avg_sq, optimizer.whole_exp_avg_sq};
  return {optimizer.exp_avg, optimizer.whole_exp_avg};
}

}  // namespace

bool StateForm::keeps(Array array) const {
  if (array != Array::kExpAvg && array != Array::kExpAvgSq) return true;
  const auto [each, whole] = kept_by(*optimizer, array);
  return training && (each || whole != ops::Kept::kNothing);
}

bool StateForm::needs_whole(const ParamSpec& param) const {
  if (!training || optimizer->whole == ops::Whole::kNone) return false;
  return optimizer->whole == ops::Whole::kAll || param.is_hidden_matrix();
}

std::vector<int64_t> StateForm::kept_shape(const ParamSpec& param, Array array) const {
  if (array != Array::kExpAvg && array != Array::kExpAvgSq) return param.shape;
  const auto [each, whole] = kept_by(*optimizer, array);
  if (!needs_whole(param)) return each && training ? param.shape : std::vector<int64_t>{0};
  if (whole == ops::Kept::kNothing) return {0};
  if (whole == ops::Kept::kElements || !ops::has_rows_and_columns(param.shape)) return param.shape;
  auto shape = param.shape;
  const int64_t columns = shape.back();
  shape.pop_back();
  shape.back() += columns;
  return shape;
}

int64_t StateForm::kept_count(const ParamSpec& param, Array array) const {
  int64_t count = 1;
  for (const int64_t extent : kept_shape(param, array)) count *= extent;
  return count;
}

const SlotPart& SlotParts::of(Array kept) const {
  const std::array all = {&master, &exp_avg, &exp_avg_sq, &gradient, &working};
  return *all[size_t(kept)];
}

StateLayout::StateLayout(std::vector<LayerSpec> specs, const StateForm& form,
                         int64_t segment_elements, const Shard& shard)
    : specs_(std::move(specs)), form_(form), segment_elements_(segment_elements), shard_(shard) {
  GIGAGPT_ASSERT(segment_elements % kMatrixElements == 0);
  GIGAGPT_ASSERT(!form.compact || form.precision == Precision::kBf16);
  GIGAGPT_ASSERT(!form.training || !form.compact || form.optimizer->whole == ops::Whole::kNone);
  int64_t largest = 0;
  for (size_t i = 0; i < specs_.size(); ++i) {
    for (size_t p = 0; p < specs_[i].params.size(); ++p) {
      const auto [_, fresh] =
          places_.emplace(specs_[i].prefix + specs_[i].params[p].name, Place{i, p});
      GIGAGPT_ASSERT(fresh);
    }
    // So a layer's gradient is complete when the backward pass has been through it.
    for (const SharedParam& use : specs_[i].shared) GIGAGPT_ASSERT(place(use.name).layer < i);
    const LayerLayout& layer = layers_.emplace_back(lay_out(specs_[i], form));
    largest = std::max(largest, layer.size);
    // So that a layer's vectors have room beside its largest matrix.
    for (const LayerLayout::Whole& whole : layer.whole) {
      most_elements_ =
          std::max(most_elements_, whole.end - whole.begin + layer.size - layer.matrices);
    }
    has_whole_ = has_whole_ || !layer.whole.empty();
  }
  if (segment_elements_ == 0) segment_elements_ = padded(largest, kMatrixElements);
  most_elements_ = std::max(padded(most_elements_, kMatrixElements), segment_elements_);
  cut();
  measure_slots();
}

// The one that a cut before that element would cut.
const LayerLayout::Whole* StateLayout::whole_around(size_t layer, int64_t element) const {
  for (const LayerLayout::Whole& whole : layers_[layer].whole) {
    if (whole.begin < element && element < whole.end) return &whole;
  }
  return nullptr;
}

// A layer is cut into as many stretches as there are systems.
int64_t StateLayout::stretch_begin(size_t layer, int stretch) const {
  const int64_t size = layers_[layer].size;
  const int64_t blocks = padded(size, kMatrixElements) / kMatrixElements;
  const int64_t even = std::min(size, blocks * stretch / shard_.systems * kMatrixElements);
  const LayerLayout::Whole* whole = whole_around(layer, even);
  if (whole == nullptr) return even;
  return std::min(size, even - whole->begin < whole->end - even ? whole->begin : whole->end);
}

// Which of them is a system's. Where parameters are whole they differ in size, so that each system
// has another one in the next layer.
int StateLayout::stretch_of(size_t layer, int rank) const {
  const auto turns = has_whole_ ? int(layer % size_t(shard_.systems)) : 0;
  return (rank + turns) % shard_.systems;
}

int64_t StateLayout::segment_end(size_t layer, int64_t begin, int64_t shard_end) const {
  const int64_t most = std::min(shard_end, begin + most_elements_);
  const LayerLayout::Whole* whole = whole_around(layer, most);
  return whole == nullptr ? most : whole->begin;
}

void StateLayout::cut() {
  size_t others = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    first_segments_.push_back(segments_.size());
    std::vector<int> owners(size_t(shard_.systems));  // per stretch
    for (int rank = 0; rank < shard_.systems; ++rank) owners[size_t(stretch_of(i, rank))] = rank;
    for (const int rank : owners) {
      const Segment shard = shard_of(i, rank);
      for (int64_t begin = shard.begin; begin < shard.end();) {
        const int64_t end = segment_end(i, begin, shard.end());
        segments_.push_back({i, begin, end - begin, rank});
        places_of_segments_.push_back(rank == shard_.rank ? own_segments_++ : others++);
        begin = end;
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
  uint64_t most_before = 0, most_after = kBlockBytes;
  for (const Segment& segment : segments_) {
    const SlotParts parts = slot_parts(segment, /*own=*/true, 0);
    most_before = std::max(most_before, 0 - parts.gradient_info);
    most_after = std::max(most_after, parts.end);
  }
  most_slot_bytes_ = most_before + most_after;
}

Segment StateLayout::shard_of(size_t layer, int rank) const {
  const int stretch = stretch_of(layer, rank);
  const int64_t begin = stretch_begin(layer, stretch);
  return {layer, begin, stretch_begin(layer, stretch + 1) - begin, rank};
}

size_t StateLayout::update_buffers() const {
  const auto usual = int64_t(kUpdateBuffers) * segment_elements_ / most_elements_;
  return size_t(std::max<int64_t>(usual, 2));
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

int64_t StateLayout::end(Place place) const {
  for (const LayerLayout::Whole& whole : layers_[place.layer].whole) {
    if (whole.param == place.param) return whole.end;
  }
  return offset(place) + param(place).count();
}

std::vector<size_t> StateLayout::owners_of_shared(size_t layer) const {
  std::vector<size_t> owners;
  for (const auto& [name, _] : specs_[layer].shared) {
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

int64_t StateLayout::kept_before(size_t layer, Array array, int64_t element) const {
  int64_t kept = element;
  for (const LayerLayout::Whole& whole : layers_[layer].whole) {
    if (whole.begin >= element) break;
    const int64_t count = form_.kept_count(specs_[layer].params[whole.param], array);
    const int64_t before = std::min(element, whole.end) - whole.begin;
    kept -= before - std::min(before, padded(count, kParamElements));
  }
  return kept;
}

uint64_t StateLayout::kept_bytes(const Segment& segment, Array array) const {
  if (!form_.keeps(array)) return 0;
  if (!form_.compact) {
    return 4 * uint64_t(kept_before(segment.layer, array, segment.end()) -
                        kept_before(segment.layer, array, segment.begin));
  }
  const int64_t coded = coded_in(segment);
  return 4 * uint64_t(segment.count - coded) + 4 * uint64_t(coded / kCodeElements) +
         uint64_t(coded);
}

SlotParts StateLayout::slot_parts(const Segment& segment, bool own, uint64_t info) const {
  SlotParts parts;
  parts.info = info;
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
