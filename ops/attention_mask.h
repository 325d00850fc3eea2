// The rule of an attention as blocks of 64 x 64.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/attention_rule.h"
#include "ops/kernels/attention.h"

namespace gigagpt::ops {

// Keys [begin, end): what the rule lets a query see but for `sees`.
struct KeyRange {
  int64_t begin, end;
};
// The range of query i of Tq in a row of the batch.
KeyRange keys_of(const AttentionRule& rule, int64_t row, int64_t i, int64_t Tq, int64_t Tk);

class MaskBlocks {
 public:
  // Throws Error for a query that sees no key.
  MaskBlocks(const AttentionRule& rule, int64_t B, int64_t Tq, int64_t Tk);
  MaskBlocks(const MaskBlocks&) = delete;
  MaskBlocks& operator=(const MaskBlocks&) = delete;

  const kernels::BlockMask& view() const { return view_; }
  double pairs() const { return pairs_; }  // of a query and a key that it sees, in the whole batch

 private:
  std::vector<uint32_t> kinds_;
  std::vector<uint64_t> bits_;
  kernels::BlockMask view_;
  double pairs_ = 0;
};

}  // namespace gigagpt::ops
