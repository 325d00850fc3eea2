// Rows of a large parameter on their way to the systems that keep its shards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/state/layout.h"
#include "ops/row_sums.h"

namespace gigagpt::engine {

class RowSlices {
 public:
  // Of a parameter with rows of `width` elements. The layout must outlive it.
  RowSlices(const StateLayout& layout, StateLayout::Place place, int64_t width);

  // For each system the parts of the rows that are in its shard; in bf16, rounded, if that is what
  // products are in.
  std::vector<std::vector<std::byte>> pack(const ops::RowSums& rows) const;
  // Adds what one system has for this one to its shard's gradient, of which the whole layer's
  // begins at `gradient`.
  void add(std::span<const std::byte> packed, float* gradient) const;

 private:
  const StateLayout& layout_;
  size_t layer_;
  int64_t first_;  // element of the layer
  int64_t width_;
  bool narrow_;
};

}  // namespace gigagpt::engine
