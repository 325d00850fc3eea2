#include "engine/storage/row_slices.h"

#include <cstring>

#include "base/error.h"
#include "ops/kernels/optimizer.h"

namespace gigagpt::engine {
namespace {

using ops::kernels::Bf16;

// Before its elements in a message: where in the layer they are.
struct Slice {
  int64_t begin, count;
};

}  // namespace

std::vector<std::vector<std::byte>> pack_rows(const StateLayout& layout, StateLayout::Place param,
                                              const ops::RowSums& rows) {
  const ParamSpec& spec = layout.param(param);
  const int64_t width = spec.count() / spec.shape.front();
  const bool narrow = layout.precision() == Precision::kBf16;
  std::vector<std::vector<std::byte>> packed(size_t(layout.shard().systems));
  for (int rank = 0; rank < layout.shard().systems; ++rank) {
    auto& bytes = packed[size_t(rank)];
    for (const int64_t row : rows.rows()) {
      const int64_t start = layout.offset(param) + row * width;
      const Segment part = layout.shard_of(param.layer, rank).overlap(start, width);
      if (part.count == 0) continue;
      const Slice slice{part.begin, part.count};
      const size_t at = bytes.size(), size = size_t(slice.count) * (narrow ? 2 : 4);
      bytes.resize(at + sizeof slice + size);
      std::memcpy(&bytes[at], &slice, sizeof slice);
      const float* values = rows.at(row) + (slice.begin - start);
      std::byte* to = &bytes[at + sizeof slice];
      if (narrow)
        ops::kernels::optimizer_kernels().round(values, size_t(slice.count),
                                                reinterpret_cast<Bf16*>(to));
      else
        std::memcpy(to, values, size);
    }
  }
  return packed;
}

void add_rows(std::span<const std::byte> packed, Precision precision, float* gradient) {
  const auto& kernels = ops::kernels::optimizer_kernels();
  const bool narrow = precision == Precision::kBf16;
  std::vector<float> values;
  while (!packed.empty()) {
    Slice slice{};
    std::memcpy(&slice, packed.data(), sizeof slice);
    const size_t count = size_t(slice.count), size = count * (narrow ? 2 : 4);
    GIGAGPT_ASSERT(sizeof slice + size <= packed.size());
    values.resize(count);
    const std::byte* from = packed.data() + sizeof slice;
    if (narrow)
      kernels.widen(reinterpret_cast<const Bf16*>(from), count, values.data());
    else
      std::memcpy(values.data(), from, size);
    kernels.add(values.data(), 1.0F, count, gradient + slice.begin);
    packed = packed.subspan(sizeof slice + size);
  }
}

}  // namespace gigagpt::engine
