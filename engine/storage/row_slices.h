// Rows of a large parameter on their way to the systems that keep its shards.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/state/layout.h"
#include "ops/row_sums.h"

namespace gigagpt::engine {

// For each system the parts of a parameter's rows that are in its shard; in bf16, rounded, if that
// is what products are in.
std::vector<std::vector<std::byte>> pack_rows(const StateLayout& layout, StateLayout::Place param,
                                              const ops::RowSums& rows);

// Adds what one system has for this one to its shard's gradient, of which the whole layer's begins
// at `gradient`.
void add_rows(std::span<const std::byte> packed, Precision precision, float* gradient);

}  // namespace gigagpt::engine
