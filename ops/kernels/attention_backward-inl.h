// The backward task of ops/kernels/attention.h for one target and kind of element.
#if defined(GIGAGPT_OPS_KERNELS_ATTENTION_BACKWARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GIGAGPT_OPS_KERNELS_ATTENTION_BACKWARD_INL_H_
#undef GIGAGPT_OPS_KERNELS_ATTENTION_BACKWARD_INL_H_
#else
#define GIGAGPT_OPS_KERNELS_ATTENTION_BACKWARD_INL_H_
#endif

#include "ops/kernels/attention-inl.h"

HWY_BEFORE_NAMESPACE();
GIGAGPT_SIMD_TARGET
namespace gigagpt::ops::kernels::GIGAGPT_SIMD {

// With P = softmax(S) and Z dropout's factors, y = (P Z) v gives
//   dv = (P Z)^T dy,  dS = P (Z (dy v^T) - delta) / sqrt(D),  delta = rowsum(dy y),
//   dq = dS k,  dk = dS^T q.
// For 64 keys at a time all queries that see some are visited; dk and dv then are done, while dq
// grows.
template <class T>
struct Backward {
  using Args = AttentionArgs<T>;

  // A thread's memory. Per block of 64 queries: q and dy packed for products over D (`_cols`) and
  // over queries (`_rows`, in panels of 64 columns), and dq^T [D, 64].
  struct Scratch : Arena {
    Scratch(const Args& a, std::byte* memory) : Arena(memory), D(a.D), Tq(a.Tq) {}
    size_t D, Tq, depth = RoundUp(D, kPair<T>);
    size_t panels = RoundUp(D, kColumns) / kColumns, blocks = RoundUp(Tq, kBlock) / kBlock;
    T* q_cols = take<T>(blocks * depth * kBlock);
    T* dy_cols = take<T>(blocks * depth * kBlock);
    T* q_rows = take<T>(blocks * panels * kSquare);
    T* dy_rows = take<T>(blocks * panels * kSquare);
    float* dqt = take<float>(blocks * D * kBlock);
    float* lse = take<float>(blocks * kBlock);
    float* delta = take<float>(blocks * kBlock);
    T* k = take<T>(kBlock * depth);  // the current 64 keys
    T* v = take<T>(kBlock * depth);
    T* kt = take<T>(D * kBlock);      // k^T
    float* s = take<float>(kSquare);  // S^T and dP^T [64 keys, 64 queries]
    float* dp = take<float>(kSquare);
    T* p = take<T>(kSquare);  // P^T and dS^T, the latter also as a packed operand
    T* ds = take<T>(kSquare);
    T* ds_packed = take<T>(kSquare);
    float* dk = take<float>(panels * kSquare);  // [panels][64, 64]
    float* dv = take<float>(panels * kSquare);
    float* dq = take<float>(kBlock * D);
  };

  static size_t ScratchBytes(const Args& a) { return Scratch(a, nullptr).bytes(); }

  static void Head(const Args& a, size_t head, std::byte* memory) {
    const Scratch t(a, memory);
    PrepareQueries(a, head, t);
    const size_t offset = a.kv_head_at(a.kv_head(head));
    for (size_t key = 0; key < a.Tk; key += kBlock) {
      const size_t keys = std::min(kBlock, a.Tk - key), at = offset + key * a.kv_row;
      CopyRows(a.k + at, a.kv_row, keys, a.D, t.k, kBlock, t.depth);
      CopyRows(a.v + at, a.kv_row, keys, a.D, t.v, kBlock, t.depth);
      Transpose(a.k + at, a.kv_row, keys, a.D, t.kt, kBlock);
      Sum sum = Sum::kSet;
      for (size_t block = a.mask == nullptr ? key / kBlock : 0; block < t.blocks; ++block) {
        if (!Sees(a, head, key, block)) continue;
        Square(a, head, key, block, sum, t);
        sum = Sum::kAdd;
      }
      if (sum == Sum::kSet) {
        std::fill_n(t.dk, t.panels * kSquare, 0.0F);
        std::fill_n(t.dv, t.panels * kSquare, 0.0F);
      }
      for (size_t r = 0; r < keys; ++r) {
        for (size_t c = 0; c < a.D; c += kColumns) {
          const size_t n = std::min(kColumns, a.D - c), from = c * kColumns + r * kColumns;
          const size_t to = a.head_at(head, a.dkv_batch) + (key + r) * a.dkv_row + c;
          StoreRow(t.dk + from, n, a.dk + to);
          StoreRow(t.dv + from, n, a.dv + to);
        }
      }
    }
    for (size_t block = 0; block < t.blocks; ++block) {
      Transpose(t.dqt + block * a.D * kBlock, kBlock, a.D, kBlock, t.dq, a.D);
      const size_t query = block * kBlock, queries = std::min(kBlock, a.Tq - query);
      T* to = a.dq + a.head_at(head, a.q_batch) + query * a.q_row;
      for (size_t r = 0; r < queries; ++r) StoreRow(t.dq + r * a.D, a.D, to + r * a.q_row);
    }
  }

 private:
  static void PrepareQueries(const Args& a, size_t head, const Scratch& t) {
    const T* q = a.q + a.head_at(head, a.q_batch);
    const size_t y_offset = a.head_at(head, a.y_batch);
    for (size_t block = 0; block < t.blocks; ++block) {
      const size_t query = block * kBlock, queries = std::min(kBlock, a.Tq - query);
      const T *qs = q + query * a.q_row, *dys = a.dy + y_offset + query * a.y_row;
      PackColumns(qs, a.q_row, queries, a.D, t.q_cols + block * t.depth * kBlock);
      PackColumns(dys, a.y_row, queries, a.D, t.dy_cols + block * t.depth * kBlock);
      for (size_t panel = 0; panel < t.panels; ++panel) {
        const size_t c = panel * kColumns, n = std::min(kColumns, a.D - c);
        const size_t at = (block * t.panels + panel) * kSquare;
        PackRows(qs + c, a.q_row, queries, n, kBlock / kPair<T>, t.q_rows + at);
        PackRows(dys + c, a.y_row, queries, n, kBlock / kPair<T>, t.dy_rows + at);
      }
    }
    for (size_t i = 0; i < t.blocks * kBlock; ++i) {
      t.lse[i] = t.delta[i] = 0.0F;  // beyond the last query everything is zero
      if (i >= a.Tq) continue;
      t.lse[i] = a.lse[head * a.Tq + i];
      const T *y = a.y + y_offset + i * a.y_row, *dy = a.dy + y_offset + i * a.y_row;
      const DF d;
      VF sum = hn::Zero(d);
      size_t c = 0;
      for (; c + kLanes <= a.D; c += kLanes)
        sum = hn::MulAdd(LoadF(d, y + c), LoadF(d, dy + c), sum);
      float rest = 0.0F;
      for (; c < a.D; ++c)
        rest += hn::GetLane(LoadF(D1(), y + c)) * hn::GetLane(LoadF(D1(), dy + c));
      t.delta[i] = hn::GetLane(hn::SumOfLanes(d, sum)) + rest;
    }
    std::fill_n(t.dqt, t.blocks * a.D * kBlock, 0.0F);
  }

  static bool Sees(const Args& a, size_t head, size_t key, size_t block) {
    return a.mask == nullptr || a.mask->kind(head / a.H, block, key / kBlock) != BlockMask::kNone;
  }

  // 64 keys from `key` and one block of queries, the first of them or added to what is there.
  static void Square(const Args& a, size_t head, size_t key, size_t block, Sum sum,
                     const Scratch& t) {
    const size_t words = t.depth / kPair<T>, columns = block * t.depth * kBlock;
    // On the diagonal a strip of keys only meets the queries from its own on.
    const bool diagonal = a.mask == nullptr && block * kBlock == key;
    const size_t strip = diagonal ? kStrip : kBlock;
    for (size_t r = 0; r < kBlock; r += strip) {
      const size_t first = diagonal ? r : 0, b = columns + first * kPair<T>;
      const size_t c = r * kBlock + first;
      Tile(strip, kBlock - first, t.k + r * t.depth, t.depth, t.q_cols + b, words, t.s + c, kBlock);
      Tile(strip, kBlock - first, t.v + r * t.depth, t.depth, t.dy_cols + b, words, t.dp + c,
           kBlock);
    }
    if (diagonal) MaskLater(t.s, kBlock, 0, 0);
    if (a.mask != nullptr) {
      const uint32_t kind = a.mask->kind(head / a.H, block, key / kBlock);
      if (kind >= BlockMask::kSome) MaskUnseen(t.s, a.mask->bits_of(kind));
    }
    Gradients(a, head, key, block, diagonal, t);
    for (size_t panel = 0; panel < t.panels; ++panel) {
      const size_t n = std::min(kColumns, a.D - panel * kColumns);
      const size_t at = (block * t.panels + panel) * kSquare, to = panel * kSquare;
      for (size_t r = 0; r < kBlock; r += strip) {
        const size_t first = diagonal ? r : 0, left = (kBlock - first) / kPair<T>;
        const size_t from = r * kBlock + first, b = at + first * kColumns;
        Tile(strip, n, t.p + from, kBlock, t.dy_rows + b, left, t.dv + to + r * kColumns, kColumns,
             sum);
        Tile(strip, n, t.ds + from, kBlock, t.q_rows + b, left, t.dk + to + r * kColumns, kColumns,
             sum);
      }
    }
    for (size_t c = 0; c < kBlock; c += strip) {
      const size_t keys = diagonal ? c + strip : kBlock;
      Tile(a.D, strip, t.kt, kBlock, t.ds_packed + c * kPair<T>, keys / kPair<T>,
           t.dqt + block * a.D * kBlock + c, kBlock, Sum::kAdd);
    }
  }

  // P^T and dS^T from S^T and dP^T.
  static HWY_NOINLINE void Gradients(const Args& a, size_t head, size_t key, size_t block,
                                     bool diagonal, const Scratch& t) {
    const DF d;
    const ProbabilityDropout dropout(a, head, block * kBlock);
    const VF scale = hn::Set(d, 1.0F / a.divisor()), scale2 = hn::Set(d, kLog2E / a.divisor());
    for (size_t c = 0; c < kBlock; c += kLanes) {
      const VF lse = hn::Load(d, t.lse + block * kBlock + c);
      const VF delta = hn::Load(d, t.delta + block * kBlock + c);
      const size_t rows = diagonal ? StripEnd(c) : kBlock;
      for (size_t r = 0; r < rows; r += 4) {
        VF factors[4], ds[4];
        if (dropout.on()) dropout.Factors(key + r, c, factors);
        for (size_t i = 0; i < 4; ++i) {
          const size_t at = (r + i) * kColumns + c;
          const VF p = Exp2(d, hn::MulSub(hn::Load(d, t.s + at), scale2, lse));
          VF dp = hn::Load(d, t.dp + at);
          if (dropout.on()) dp = hn::Mul(dp, factors[i]);
          StoreF(d, dropout.on() ? hn::Mul(p, factors[i]) : p, t.p + at);
          ds[i] = hn::Mul(hn::Mul(p, scale), hn::Sub(dp, delta));
          StoreF(d, ds[i], t.ds + at);
        }
        StorePacked(ds, PackedAt(t.ds_packed, r, c));
        StorePacked(ds + 2, PackedAt(t.ds_packed, r + 2, c));
      }
    }
  }
};

template <class T>
constexpr AttentionKernels<T> kAttentionKernels = {
    Forward<T>::PackedBytes, Forward<T>::ScratchBytes, Backward<T>::ScratchBytes,
    Forward<T>::Pack,        Forward<T>::Block,        Backward<T>::Head};

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();

#endif
