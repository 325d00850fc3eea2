// The tasks of ops/kernels/attention.h for one target and kind of element.
#if defined(GIGAGPT_OPS_KERNELS_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GIGAGPT_OPS_KERNELS_ATTENTION_INL_H_
#undef GIGAGPT_OPS_KERNELS_ATTENTION_INL_H_
#else
#define GIGAGPT_OPS_KERNELS_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "ops/kernels/attention.h"
#include "ops/kernels/philox-inl.h"
#include "ops/kernels/tile-inl.h"
#ifdef GIGAGPT_BF16_DOT
#include "ops/kernels/transpose_bf16-inl.h"
#endif

HWY_BEFORE_NAMESPACE();
GIGAGPT_SIMD_TARGET
namespace gigagpt::ops::kernels::GIGAGPT_SIMD {

constexpr size_t kBlock = kColumns;  // queries at once, and keys in the backward pass
constexpr size_t kKeyBlock = 128;    // keys at once in the forward pass
constexpr size_t kStrip = 16;        // keys at once on the diagonal
constexpr float kMasked = -1e30F;    // a score that counts nothing, without the NaNs of inf
constexpr size_t kSquare = kBlock * kBlock;
static_assert(kBlock == kQueryBlock);

// Behind the strip of keys that query c of a block on the diagonal ends in.
constexpr size_t StripEnd(size_t c) {
  return c / kStrip * kStrip + kStrip;
}

// Cuts memory into arrays; without memory it only counts how much they take.
class Arena {
 public:
  explicit Arena(std::byte* memory) : memory_(memory) {}
  template <class T>
  T* take(size_t count) {
    T* array = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += RoundUp(count * sizeof(T), 64);
    return array;
  }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  size_t bytes_ = 0;
};

// The dropout of one head's probabilities, four keys by one vector of queries at a time.
class ProbabilityDropout {
 public:
  template <class T>
  ProbabilityDropout(const AttentionArgs<T>& args, size_t head, size_t first_query)
      : on_(args.dropout_p > 0),
        key_(args.dropout_key),
        threshold_(static_cast<uint32_t>(args.dropout_p * 0x1p32)),
        scale_(static_cast<float>(1.0 / (1.0 - args.dropout_p))),
        row_(RoundUp(args.Tk, 4) / 4),
        first_((head * args.Tq + first_query) * row_) {}

  bool on() const { return on_; }

  // For keys first_key (a multiple of 4) to first_key + 3 and queries column to column + kLanes.
  void Factors(size_t first_key, size_t column, VF factors[4]) const {
    const hn::ScalableTag<uint32_t> d;
    HWY_ALIGN uint32_t low[kLanes], high[kLanes];
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const uint64_t counter = first_ + (column + lane) * row_ + first_key / 4;
      low[lane] = static_cast<uint32_t>(counter);
      high[lane] = static_cast<uint32_t>(counter >> 32);
    }
    hn::Vec<decltype(d)> words[4];
    Philox(d, key_, hn::Load(d, low), hn::Load(d, high), words);
    for (int i = 0; i < 4; ++i) factors[i] = DropoutFactor(DF(), words[i], threshold_, scale_);
  }

 private:
  bool on_;
  uint64_t key_;
  uint32_t threshold_;
  float scale_;
  size_t row_;
  uint64_t first_;
};

// Stores consecutive rows of a column of P^T as the packed operand of a product over keys.
HWY_INLINE void StorePacked(const VF v[2], float* to) {  // to: row r, kColumns apart
  hn::Store(v[0], DF(), to);
  hn::Store(v[1], DF(), to + kColumns);
}
#ifdef GIGAGPT_BF16_DOT
HWY_INLINE void StorePacked(const VF v[2], Bf16* to) {  // to: row pair r / 2, 2 kColumns apart
  _mm512_store_si512(to, InterleavedBf16(v[0], v[1]));
}
#endif

// The element of packed P^T for row r (even) and column j.
template <class T>
HWY_INLINE T* PackedAt(T* packed, size_t r, size_t j) {
  return packed + (r / kPair<T> * kColumns + j) * kPair<T>;
}

template <class T>
HWY_INLINE void StoreRow(const float* from, size_t n, T* to) {
  ForVectors(n, [&](auto tag, size_t c) { StoreF(tag, LoadF(tag, from + c), to + c); });
}

// Masks the scores S^T [rows, 64] of keys that a query may not see: row r is key first_key + r,
// column c sees keys up to first_visible + c.
inline void MaskLater(float* s, size_t rows, size_t first_key, size_t first_visible) {
  for (size_t r = 0; r < rows; ++r) {
    if (first_key + r <= first_visible) continue;
    const size_t hidden = std::min(first_key + r - first_visible, kColumns);
    std::fill_n(s + r * kColumns, hidden, kMasked);
  }
}

// Masks what the bits say is not seen of the scores S^T [64, 64] of a block.
inline void MaskUnseen(float* s, const uint64_t* bits) {
  for (size_t r = 0; r < kBlock; ++r) {
    for (uint64_t hidden = ~bits[r]; hidden != 0;) {
      const int first = std::countr_zero(hidden), count = std::countr_one(hidden >> first);
      std::fill_n(s + r * kColumns + first, count, kMasked);
      hidden &= count == 64 ? 0 : ~(((uint64_t{1} << count) - 1) << first);
    }
  }
}

// One step of the running softmax down column vector j of S^T [rows, 64] (rows even): updates the
// maximum and sum of each query, writes P^T (with dropout) packed, and returns in `alpha` what
// earlier results must be multiplied with.
template <class T>
HWY_INLINE void SoftmaxColumns(const float* s, size_t rows, size_t first_key, size_t j, float scale,
                               const ProbabilityDropout& dropout, float* max, float* sum,
                               float* alpha, T* p) {
  const DF d;
  VF top = hn::Load(d, s + j);
  for (size_t r = 1; r < rows; ++r) top = hn::Max(top, hn::Load(d, s + r * kColumns + j));
  const VF old = hn::Load(d, max + j), scales = hn::Set(d, scale);
  top = hn::Max(old, hn::Mul(top, scales));
  const VF factor = Exp2(d, hn::Sub(old, top));
  VF sums[2] = {hn::Zero(d), hn::Zero(d)};
  for (size_t r = 0; r < rows; r += 4) {
    VF e[4];
    for (size_t i = 0; i < 4; ++i) {
      e[i] = Exp2(d, hn::MulSub(hn::Load(d, s + (r + i) * kColumns + j), scales, top));
      sums[i % 2] = hn::Add(sums[i % 2], e[i]);
    }
    if (dropout.on()) {
      VF kept[4];
      dropout.Factors(first_key + r, j, kept);
      for (size_t i = 0; i < 4; ++i) e[i] = hn::Mul(e[i], kept[i]);
    }
    StorePacked(e, PackedAt(p, r, j));
    StorePacked(e + 2, PackedAt(p, r + 2, j));
  }
  hn::Store(hn::MulAdd(hn::Load(d, sum + j), factor, hn::Add(sums[0], sums[1])), d, sum + j);
  hn::Store(top, d, max + j);
  hn::Store(factor, d, alpha + j);
}

template <class T>
struct Forward {
  using Args = AttentionArgs<T>;

  static size_t Depth(const Args& a) { return RoundUp(a.D, kPair<T>); }
  static size_t Keys(const Args& a) { return RoundUp(a.Tk, kKeyBlock); }

  // Of one head of keys and values: K [keys, depth], and V^T in blocks [keys / 128][D][128].
  struct Packed : Arena {
    Packed(const Args& a, std::byte* memory)
        : Arena(memory), k(take<T>(Keys(a) * Depth(a))), vt(take<T>(Keys(a) * a.D)) {}
    T *k, *vt;
  };

  struct Scratch : Arena {
    Scratch(const Args& a, std::byte* memory) : Arena(memory), D(a.D) {}
    size_t D;
    T* q = take<T>(RoundUp(D, kPair<T>) * kBlock);  // q^T, packed
    T* p = take<T>(kKeyBlock * kBlock);             // P^T, packed
    float* s = take<float>(kKeyBlock * kBlock);     // S^T
    float* y = take<float>(D * kBlock);             // y^T [D, 64]
    float* yt = take<float>(kBlock * D);            // y [64, D]
    float* max = take<float>(kBlock);
    float* sum = take<float>(kBlock);
    float* alpha = take<float>(kBlock);
  };

  static size_t PackedBytes(const Args& a) { return Packed(a, nullptr).bytes(); }
  static size_t ScratchBytes(const Args& a) { return Scratch(a, nullptr).bytes(); }

  static void Pack(const Args& a, size_t kv_head, std::byte* memory) {
    const Packed packed(a, memory);
    const size_t offset = a.kv_head_at(kv_head);
    CopyRows(a.k + offset, a.kv_row, a.Tk, a.D, packed.k, Keys(a), Depth(a));
    for (size_t j = 0; j < a.Tk; j += kKeyBlock) {
      Transpose(a.v + offset + j * a.kv_row, a.kv_row, std::min(kKeyBlock, a.Tk - j), a.D,
                packed.vt + j * a.D, kKeyBlock);
    }
  }

  static void Block(const Args& a, size_t head, size_t block, const std::byte* memory,
                    std::byte* scratch_memory) {
    const Packed packed(a, const_cast<std::byte*>(memory));
    const Scratch t(a, scratch_memory);
    const size_t query = block * kBlock, queries = std::min(kBlock, a.Tq - query);
    const size_t first_visible = query + a.Tk - a.Tq;
    const size_t keys = std::min(RoundUp(first_visible + queries, kBlock), Keys(a));
    const ProbabilityDropout dropout(a, head, query);
    const float scale = kLog2E / a.divisor();
    PackColumns(a.q + a.head_at(head, a.q_batch) + query * a.q_row, a.q_row, queries, a.D, t.q);
    std::fill_n(t.max, kBlock, kMasked);
    std::fill_n(t.sum, kBlock, 0.0F);
    if (a.mask != nullptr) {
      SeenBlocks(a, head, block, packed, dropout, scale, t);
      return Finish(a, head, query, queries, t);
    }
    for (size_t j = 0; j < keys; j += kKeyBlock) {
      const size_t rows = std::min(kKeyBlock, keys - j);
      // The rows that end on the diagonal, if it lies in a corner of the block.
      const bool diagonal = first_visible % kBlock == 0 && j + rows == first_visible + kBlock;
      const size_t whole = diagonal ? rows - kBlock : rows;
      Tile(whole, kBlock, packed.k + j * Depth(a), Depth(a), t.q, Depth(a) / kPair<T>, t.s, kBlock);
      for (size_t r = whole; r < rows; r += kStrip) {
        const size_t first = r - whole;
        Tile(kStrip, kBlock - first, packed.k + (j + r) * Depth(a), Depth(a),
             t.q + first * kPair<T>, Depth(a) / kPair<T>, t.s + r * kBlock + first, kBlock);
      }
      if (j + rows > first_visible + 1) MaskLater(t.s, rows, j, first_visible);
      for (size_t c = 0; c < kBlock; c += kLanes) {
        const size_t seen = diagonal ? whole + StripEnd(c) : rows;
        SoftmaxColumns(t.s, seen, j, c, scale, dropout, t.max, t.sum, t.alpha, t.p);
      }
      const size_t strip = diagonal ? kStrip : kBlock;
      for (size_t c = 0; c < kBlock; c += strip) {
        const size_t seen = diagonal ? whole + c + strip : rows;
        Tile(a.D, strip, packed.vt + j * a.D, kKeyBlock, t.p + c * kPair<T>, seen / kPair<T>,
             t.y + c, kBlock, j == 0 ? Sum::kSet : Sum::kRescale, t.alpha + c);
      }
    }
    Finish(a, head, query, queries, t);
  }

  // The blocks of keys that the mask shows. Where a query has seen nothing yet the softmax of what
  // is masked counts; its first score that is not clears that, as what came before is then
  // multiplied with 0.
  static void SeenBlocks(const Args& a, size_t head, size_t block, const Packed& packed,
                         const ProbabilityDropout& dropout, float scale, const Scratch& t) {
    Sum sum = Sum::kSet;
    for (size_t j = 0; j < Keys(a); j += kKeyBlock) {
      const uint32_t kinds[2] = {a.mask->kind(head / a.H, block, j / kBlock),
                                 a.mask->kind(head / a.H, block, j / kBlock + 1)};
      const bool both = kinds[0] != BlockMask::kNone && kinds[1] != BlockMask::kNone;
      const size_t skipped = kinds[0] == BlockMask::kNone ? 1 : 0, rows = both ? 2 : 1;
      if (skipped == 1 && kinds[1] == BlockMask::kNone) continue;
      const size_t first = j + skipped * kBlock;
      Tile(rows * kBlock, kBlock, packed.k + first * Depth(a), Depth(a), t.q, Depth(a) / kPair<T>,
           t.s, kBlock);
      for (size_t i = 0; i < rows; ++i) {
        const uint32_t kind = kinds[skipped + i];
        if (kind >= BlockMask::kSome) MaskUnseen(t.s + i * kSquare, a.mask->bits_of(kind));
      }
      for (size_t c = 0; c < kBlock; c += kLanes) {
        SoftmaxColumns(t.s, rows * kBlock, first, c, scale, dropout, t.max, t.sum, t.alpha, t.p);
      }
      Tile(a.D, kBlock, packed.vt + j * a.D + skipped * kBlock, kKeyBlock, t.p,
           rows * kBlock / kPair<T>, t.y, kBlock, sum, t.alpha);
      sum = Sum::kRescale;
    }
  }

  static void Finish(const Args& a, size_t head, size_t query, size_t queries, const Scratch& t) {
    const DF d;
    for (size_t c = 0; c < kBlock; c += kLanes) {
      const VF inverse = hn::Div(hn::Set(d, 1.0F), hn::Load(d, t.sum + c));
      for (size_t i = 0; i < a.D; ++i) {
        float* y = t.y + i * kBlock + c;
        hn::Store(hn::Mul(hn::Load(d, y), inverse), d, y);
      }
    }
    Transpose(t.y, kBlock, a.D, kBlock, t.yt, a.D);
    for (size_t i = 0; i < queries; ++i) {
      T* y = a.y + a.head_at(head, a.y_batch) + (query + i) * a.y_row;
      StoreRow(t.yt + i * a.D, a.D, y);
      a.lse[head * a.Tq + query + i] = t.max[i] + std::log2(t.sum[i]);
    }
  }
};

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();

#endif
