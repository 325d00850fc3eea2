#include "engine/state/segment_math.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace gigagpt::engine {
namespace {

using ops::CompactMoment;
using ops::CompactPiece;
using ops::kernels::Bf16;

template <class T>
T* at(std::byte* array, int64_t element) {
  return reinterpret_cast<T*>(array) + element;
}

bool is_rounded(const StateLayout& layout, size_t layer, int64_t element) {
  return layout.precision() == Precision::kBf16 && element < layout.layer(layer).matrices;
}

// In full form, where an element of the layer lies in a moment; that of a parameter which is needed
// whole, counted in what is kept of it.
int64_t kept_place(const StateLayout& layout, const Segment& segment, Array kept, int64_t element) {
  return layout.kept_before(segment.layer, kept, element) -
         layout.kept_before(segment.layer, kept, segment.begin);
}

// Where an element of the layer lies in a moment: the scales of the blocks come first, then what is
// in fp32, then the codes.
CompactMoment moment_at(const StateLayout& layout, const Segment& segment, Array kept,
                        std::byte* array, int64_t element) {
  auto* floats = reinterpret_cast<float*>(array);
  if (!layout.form().compact)
    return {.values = floats + kept_place(layout, segment, kept, element)};
  const int64_t coded = layout.coded_in(segment), place = element - segment.begin;
  const int64_t scales = coded / kCodeElements, plain = segment.count - coded;
  if (place >= coded) return {.values = floats + scales + (place - coded)};
  auto* codes = reinterpret_cast<uint8_t*>(floats + scales + plain);
  return {.codes = codes + place, .scale = floats + place / kCodeElements};
}

std::byte* working_at(const StateLayout& layout, const Segment& segment,
                      const SegmentArrays& arrays, int64_t element) {
  return arrays.working + (layout.working_at(segment.layer, element) -
                           layout.working_at(segment.layer, segment.begin));
}

void to_working(bool rounded, std::span<const float> values, std::byte* working) {
  if (!rounded) {
    std::memcpy(working, values.data(), values.size_bytes());
    return;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    *at<Bf16>(working, int64_t(i)) = ops::kernels::to_bf16(values[i]);
  }
}

void from_bf16(const Bf16* from, std::span<float> values) {
  for (size_t i = 0; i < values.size(); ++i) values[i] = ops::kernels::to_float(from[i]);
}

// Calls visit(first value, how many, where they are kept) for what lies in each block of a moment.
template <class Visit>
void in_blocks(const StateLayout& layout, const Segment& segment, Array kept, std::byte* array,
               int64_t first, size_t count, const Visit& visit) {
  for (size_t done = 0; done < count;) {
    const CompactMoment moment = moment_at(layout, segment, kept, array, first + int64_t(done));
    const bool coded = moment.codes != nullptr;
    const size_t size = coded ? std::min(count - done, size_t(kCodeElements)) : count - done;
    GIGAGPT_ASSERT(!coded || (first + int64_t(done)) % kCodeElements == 0);
    visit(done, size, moment);
    done += size;
  }
}

}  // namespace

SegmentArrays arrays_in_slot(const StateLayout& layout, const Segment& segment, std::byte* slot) {
  const SlotParts parts = layout.slot_parts(segment);
  return {slot + parts.master.at,  slot + parts.gradient.at,
          slot + parts.exp_avg.at, slot + parts.exp_avg_sq.at,
          slot + parts.working.at, layout.form().gradient == GradientForm::kBf16};
}

std::vector<ops::ParamState> param_states(const StateLayout& layout, const Segment& segment,
                                          const SegmentArrays& arrays) {
  std::vector<ops::ParamState> states;
  layout.for_each_parameter(segment, [&](const ParamSpec& param, const Segment& piece) {
    const int64_t begin = piece.begin - segment.begin;
    const auto count = size_t(piece.count);
    const bool copy = param.is_matrix() && layout.form().has_masters();
    const bool directed = layout.form().needs_whole(param);
    const auto kept = [&](Array array, std::byte* bytes) {
      if (directed || !layout.form().keeps(array)) return std::span<float>();
      return std::span(at<float>(bytes, kept_place(layout, segment, array, piece.begin)), count);
    };
    states.push_back({{at<float>(arrays.master, begin), count},
                      {at<float>(arrays.gradient, begin), count},
                      kept(Array::kExpAvg, arrays.exp_avg),
                      kept(Array::kExpAvgSq, arrays.exp_avg_sq),
                      copy ? at<Bf16>(arrays.working, begin) : nullptr,
                      param.factors(),
                      directed});
  });
  return states;
}

std::vector<ops::WholeParam> whole_params(const StateLayout& layout, const Segment& segment,
                                          const SegmentArrays& arrays, const Update& update) {
  std::vector<ops::WholeParam> params;
  layout.for_each_parameter(segment, [&](const ParamSpec& param, const Segment& piece) {
    if (!layout.form().needs_whole(param)) return;
    GIGAGPT_ASSERT(piece.count == param.count());
    const int64_t begin = piece.begin - segment.begin;
    const auto count = size_t(piece.count);
    const auto kept = [&](Array array, std::byte* bytes) {
      return std::span(at<float>(bytes, kept_place(layout, segment, array, piece.begin)),
                       size_t(layout.form().kept_count(param, array)));
    };
    params.push_back({param.shape,
                      {at<float>(arrays.master, begin), count},
                      {at<float>(arrays.gradient, begin), count},
                      kept(Array::kExpAvg, arrays.exp_avg),
                      kept(Array::kExpAvgSq, arrays.exp_avg_sq),
                      update.grad_scale,
                      param.factors(),
                      layout.precision() == Precision::kBf16});
  });
  return params;
}

void copy_vectors(const StateLayout& layout, const Segment& segment, const SegmentArrays& arrays) {
  if (!layout.form().has_masters()) return;
  const int64_t matrices = layout.matrices_in(segment);
  if (matrices == segment.count) return;
  std::memcpy(arrays.working + 2 * matrices, at<float>(arrays.master, matrices),
              4 * size_t(segment.count - matrices));
}

std::vector<CompactPiece> compact_pieces(const StateLayout& layout, const Segment& segment,
                                         const SegmentArrays& arrays) {
  std::vector<CompactPiece> pieces;
  const auto add = [&](int64_t first, int64_t count, const ParamSpec& param) {
    CompactPiece piece{.first = first, .count = size_t(count), .factors = param.factors()};
    std::byte* weights = working_at(layout, segment, arrays, first);
    if (param.is_matrix())
      piece.rounded = at<Bf16>(weights, 0);
    else
      piece.plain = at<float>(weights, 0);
    const int64_t place = first - segment.begin;
    if (arrays.narrow_gradient)
      piece.narrow_grad = at<Bf16>(arrays.gradient, place);
    else
      piece.grad = at<float>(arrays.gradient, place);
    const StateForm& form = layout.form();
    if (form.keeps(Array::kExpAvg))
      piece.exp_avg = moment_at(layout, segment, Array::kExpAvg, arrays.exp_avg, first);
    if (form.keeps(Array::kExpAvgSq))
      piece.exp_avg_sq = moment_at(layout, segment, Array::kExpAvgSq, arrays.exp_avg_sq, first);
    pieces.push_back(piece);
  };
  const int64_t coded_end = segment.begin + layout.coded_in(segment);
  layout.for_each_parameter(segment, [&](const ParamSpec& param, const Segment& piece) {
    for (int64_t i = piece.begin; i < piece.end();) {
      const int64_t next = (i / kCodeElements + 1) * kCodeElements;
      // Padding has codes as well: whole blocks are simplest, and zeros stay zeros.
      const int64_t end = i < coded_end ? next : std::min(next, piece.end());
      add(i, end - i, param);
      i = end;
    }
  });
  return pieces;
}

void check_kept(const StateLayout& layout, const Update& update) {
  const ops::Optimizer &needs = *update.rule.optimizer, &kept = *layout.form().optimizer;
  GIGAGPT_ASSERT(!needs.exp_avg || layout.form().keeps(Array::kExpAvg));
  GIGAGPT_ASSERT(!needs.exp_avg_sq || layout.form().keeps(Array::kExpAvgSq));
  GIGAGPT_ASSERT(needs.whole == kept.whole);
}

void update_segment_alone(const StateLayout& layout, const Segment& segment,
                          const SegmentArrays& arrays, const Update& update) {
  check_kept(layout, update);
  if (!layout.form().compact) {
    ops::update_alone(param_states(layout, segment, arrays), update.rule, update.lr,
                      update.grad_scale, update.step);
    copy_vectors(layout, segment, arrays);
    return;
  }
  ops::update_alone(compact_pieces(layout, segment, arrays), update.rule, update.lr,
                    update.grad_scale, update.step, segment.layer);
}

void read_values(const StateLayout& layout, const Segment& segment, const SegmentArrays& arrays,
                 Array kept, int64_t first, std::span<float> values) {
  const int64_t place = first - segment.begin;
  if (kept == Array::kGradient && arrays.narrow_gradient) {
    from_bf16(at<Bf16>(arrays.gradient, place), values);
  } else if (kept == Array::kGradient) {
    std::copy_n(at<float>(arrays.gradient, place), values.size(), values.begin());
  } else if (kept == Array::kMaster && layout.form().has_masters()) {
    std::copy_n(at<float>(arrays.master, place), values.size(), values.begin());
  } else if (kept == Array::kMaster) {
    std::byte* working = working_at(layout, segment, arrays, first);
    if (is_rounded(layout, segment.layer, first))
      from_bf16(at<Bf16>(working, 0), values);
    else
      std::memcpy(values.data(), working, values.size_bytes());
  } else {
    const bool positive = kept == Array::kExpAvgSq;
    std::byte* array = positive ? arrays.exp_avg_sq : arrays.exp_avg;
    in_blocks(layout, segment, kept, array, first, values.size(),
              [&](size_t begin, size_t count, const CompactMoment& moment) {
                float block[kCodeElements];
                const bool direct = moment.codes == nullptr;
                ops::read_moment(moment, positive, count, direct ? &values[begin] : block);
                if (!direct) std::copy_n(block, count, &values[begin]);
              });
  }
}

void write_values(const StateLayout& layout, const Segment& segment, const SegmentArrays& arrays,
                  Array kept, int64_t first, std::span<const float> values) {
  const int64_t place = first - segment.begin;
  if (kept == Array::kMaster) {
    if (layout.form().has_masters()) {
      std::copy(values.begin(), values.end(), at<float>(arrays.master, place));
    }
    to_working(is_rounded(layout, segment.layer, first), values,
               working_at(layout, segment, arrays, first));
    return;
  }
  GIGAGPT_ASSERT(kept != Array::kGradient);
  const bool positive = kept == Array::kExpAvgSq;
  std::byte* array = positive ? arrays.exp_avg_sq : arrays.exp_avg;
  in_blocks(layout, segment, kept, array, first, values.size(),
            [&](size_t begin, size_t count, const CompactMoment& moment) {
              float block[kCodeElements] = {};
              const bool direct = moment.codes == nullptr;
              if (!direct) std::copy_n(&values[begin], count, block);
              ops::write_moment(direct ? &values[begin] : block, positive, count, moment);
            });
}

void write_working(const StateLayout& layout, size_t layer, int64_t first,
                   std::span<const float> values, std::byte* working) {
  to_working(is_rounded(layout, layer, first), values, working + layout.working_at(layer, first));
}

std::vector<float> read_segment(const StateLayout& layout, const Segment& segment,
                                const SegmentArrays& arrays, Array kept) {
  if (!layout.form().compact && (kept == Array::kExpAvg || kept == Array::kExpAvgSq)) {
    const auto* floats = at<float>(kept == Array::kExpAvg ? arrays.exp_avg : arrays.exp_avg_sq, 0);
    return {floats, floats + layout.kept_bytes(segment, kept) / sizeof(float)};
  }
  std::vector<float> values(static_cast<size_t>(segment.count));
  int64_t begin = 0;  // what is kept in other ways begins at these
  for (const int64_t end : {layout.coded_in(segment), layout.matrices_in(segment), segment.count}) {
    const auto piece = std::span(values).subspan(size_t(begin), size_t(end - begin));
    if (!piece.empty()) {
      read_values(layout, segment, arrays, kept, segment.begin + begin, piece);
    }
    begin = end;
  }
  return values;
}

}  // namespace gigagpt::engine
