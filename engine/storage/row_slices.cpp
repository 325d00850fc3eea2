#include "engine/storage/row_slices.h"

#include <algorithm>
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

RowSlices::RowSlices(const StateLayout& layout, StateLayout::Place place, int64_t width)
    : layout_(layout),
      layer_(place.layer),
      first_(layout.offset(place)),
      width_(width),
      narrow_(layout.precision() == Precision::kBf16) {}

std::vector<std::vector<std::byte>> RowSlices::pack(const ops::RowSums& rows) const {
  std::vector<std::vector<std::byte>> packed(size_t(layout_.shard().systems));
  for (int rank = 0; rank < layout_.shard().systems; ++rank) {
    const Segment shard = layout_.shard_of(layer_, rank);
    auto& bytes = packed[size_t(rank)];
    for (const int64_t row : rows.rows()) {
      const int64_t start = first_ + row * width_;
      const int64_t begin = std::max(start, shard.begin);
      const int64_t end = std::min(start + width_, shard.begin + shard.count);
      if (begin >= end) continue;
      const Slice slice{begin, end - begin};
      const size_t at = bytes.size(), size = size_t(slice.count) * (narrow_ ? 2 : 4);
      bytes.resize(at + sizeof slice + size);
      std::memcpy(&bytes[at], &slice, sizeof slice);
      const float* values = rows.at(row) + (begin - start);
      std::byte* to = &bytes[at + sizeof slice];
      if (narrow_)
        ops::kernels::optimizer_kernels().round(values, size_t(slice.count),
                                                reinterpret_cast<Bf16*>(to));
      else
        std::memcpy(to, values, size);
    }
  }
  return packed;
}

void RowSlices::add(std::span<const std::byte> packed, float* gradient) const {
  const auto& kernels = ops::kernels::optimizer_kernels();
  std::vector<float> values(static_cast<size_t>(width_));
  while (!packed.empty()) {
    Slice slice{};
    std::memcpy(&slice, packed.data(), sizeof slice);
    const size_t count = size_t(slice.count), size = count * (narrow_ ? 2 : 4);
    GIGAGPT_ASSERT(count <= values.size() && sizeof slice + size <= packed.size());
    const std::byte* from = packed.data() + sizeof slice;
    if (narrow_)
      kernels.widen(reinterpret_cast<const Bf16*>(from), count, values.data());
    else
      std::memcpy(values.data(), from, size);
    kernels.add(values.data(), 1.0F, count, gradient + slice.begin);
    packed = packed.subspan(sizeof slice + size);
  }
}

}  // namespace gigagpt::engine
