#include "ops/attention_mask.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "ops/parallel.h"

namespace gigagpt::ops {
namespace {

using kernels::BlockMask;

constexpr int64_t kBlock = kernels::kQueryBlock;

int64_t blocks_of(int64_t n) {
  return (n + kBlock - 1) / kBlock;
}

// The blocks of 64 queries. Kinds count from this strip's own bits.
struct Strip {
  std::vector<uint64_t> bits;
  double pairs = 0;
  int64_t blind = -1;  // a query that sees nothing
};

Strip fill_strip(const AttentionRule& rule, int64_t row, int64_t first, int64_t Tq, int64_t Tk,
                 uint32_t* kinds) {
  Strip strip;
  const int64_t queries = std::min(kBlock, Tq - first);
  std::vector<KeyRange> ranges;
  KeyRange all{Tk, 0};
  for (int64_t c = 0; c < queries; ++c) {
    const KeyRange& range = ranges.emplace_back(keys_of(rule, row, first + c, Tq, Tk));
    all = {std::min(all.begin, range.begin), std::max(all.end, range.end)};
  }
  uint64_t sighted = 0;
  for (int64_t key = all.begin / kBlock * kBlock; key < all.end; key += kBlock) {
    const bool whole = !rule.sees && std::all_of(ranges.begin(), ranges.end(), [&](KeyRange r) {
      return r.begin <= key && key + kBlock <= r.end;
    });
    if (whole) {  // all but a few, where a window is long
      kinds[key / kBlock] = BlockMask::kAll;
      strip.pairs += double(queries * kBlock);
      sighted = ~uint64_t{0};
      continue;
    }
    std::array<uint64_t, kBlock> bits{};
    int64_t count = 0;
    for (int64_t c = 0; c < queries; ++c) {
      const int64_t begin = std::max(ranges[size_t(c)].begin, key);
      const int64_t end = std::min(ranges[size_t(c)].end, key + kBlock);
      for (int64_t k = begin; k < end; ++k) {
        if (rule.sees && !rule.sees(row, first + c + Tk - Tq, k)) continue;
        bits[size_t(k - key)] |= uint64_t{1} << c;
        sighted |= uint64_t{1} << c;
        ++count;
      }
    }
    strip.pairs += double(count);
    if (count == 0) continue;
    uint32_t& kind = kinds[key / kBlock];
    kind = BlockMask::kAll;
    if (count == queries * kBlock) continue;
    kind = BlockMask::kSome + uint32_t(strip.bits.size() / kBlock);
    strip.bits.insert(strip.bits.end(), bits.begin(), bits.end());
  }
  for (int64_t c = 0; c < queries; ++c) {
    if ((sighted >> c & 1) == 0) strip.blind = first + c;
  }
  return strip;
}

}  // namespace

KeyRange keys_of(const AttentionRule& rule, int64_t row, int64_t i, int64_t Tq, int64_t Tk) {
  const int64_t position = i + Tk - Tq;
  int64_t begin = rule.window > 0 ? std::max<int64_t>(position - rule.window + 1, 0) : 0;
  if (rule.documents.defined())
    begin = std::max(begin, rule.documents.data_ptr<int64_t>()[row * Tq + i]);
  return {begin, std::min(std::max(position + 1, rule.prefix), Tk)};
}

MaskBlocks::MaskBlocks(const AttentionRule& rule, int64_t B, int64_t Tq, int64_t Tk) {
  GIGAGPT_ASSERT(!rule.documents.defined() ||
                 (rule.documents.scalar_type() == at::kLong && rule.documents.is_contiguous() &&
                  rule.documents.numel() == B * Tq));
  const int64_t rows = rule.documents.defined() || rule.sees ? B : 1;
  const int64_t query_blocks = blocks_of(Tq), key_blocks = blocks_of(Tk);
  kinds_.assign(size_t(rows * query_blocks * key_blocks), BlockMask::kNone);
  std::vector<Strip> strips(size_t(rows * query_blocks));
  parallel_tasks(strips.size(), [&](size_t task, int) {
    const auto row = int64_t(task) / query_blocks, block = int64_t(task) % query_blocks;
    strips[task] =
        fill_strip(rule, row, block * kBlock, Tq, Tk, kinds_.data() + int64_t(task) * key_blocks);
  });
  for (size_t task = 0; task < strips.size(); ++task) {
    const Strip& strip = strips[task];
    if (strip.blind >= 0) {
      fail("attention: the rule lets query {} of row {} see no key; it has to see one", strip.blind,
           int64_t(task) / query_blocks);
    }
    const auto before = uint32_t(bits_.size() / kBlock);
    for (size_t i = 0; i < size_t(key_blocks); ++i) {
      uint32_t& kind = kinds_[task * size_t(key_blocks) + i];
      if (kind >= BlockMask::kSome) kind += before;
    }
    bits_.insert(bits_.end(), strip.bits.begin(), strip.bits.end());
    pairs_ += strip.pairs * double(B) / double(rows);
  }
  view_ = {kinds_.data(), bits_.data(), size_t(rows), size_t(query_blocks), size_t(key_blocks)};
}

}  // namespace gigagpt::ops
