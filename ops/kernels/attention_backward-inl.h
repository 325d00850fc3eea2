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
// For 64 keys at a time all later queries are visited; dk and dv then are done, while dq grows.
template <class E>
struct Backward {
  using T = typename E::T;
  using Args = AttentionBackwardArgs<T>;

  // A thread's memory. Per block of 64 queries: q and dy packed for products over D (`_cols`) and
  // over queries (`_rows`, in panels of 64 columns), and dq^T [D, 64].
  struct Scratch {
    Scratch(const AttentionArgs<T>& a, std::byte* at)
        : depth(RoundUp(a.D, E::kPair)),
          panels(RoundUp(a.D, kColumns) / kColumns),
          blocks(RoundUp(a.Tq, kBlock) / kBlock) {
      Arena arena(at);
      q_cols = arena.take<T>(blocks * depth * kBlock);
      dy_cols = arena.take<T>(blocks * depth * kBlock);
      q_rows = arena.take<T>(blocks * panels * kSquare);
      dy_rows = arena.take<T>(blocks * panels * kSquare);
      dqt = arena.take<float>(blocks * a.D * kBlock);
      lse = arena.take<float>(blocks * kBlock);
      delta = arena.take<float>(blocks * kBlock);
      k = arena.take<T>(kBlock * depth);
      v = arena.take<T>(kBlock * depth);
      kt = arena.take<T>(a.D * kBlock);
      s = arena.take<float>(kSquare);
      dp = arena.take<float>(kSquare);
      p = arena.take<T>(kSquare);
      ds = arena.take<T>(kSquare);
      ds_packed = arena.take<T>(kSquare);
      dk = arena.take<float>(panels * kSquare);
      dv = arena.take<float>(panels * kSquare);
      dq = arena.take<float>(kBlock * a.D);
      bytes = arena.bytes();
    }
    size_t depth, panels, blocks;
    T *q_cols, *dy_cols, *q_rows, *dy_rows;
    float *dqt, *lse, *delta;
    T *k, *v, *kt;          // the current 64 keys: [64, depth], k^T [D, 64]
    float *s, *dp;          // S^T and dP^T [64 keys, 64 queries]
    T *p, *ds, *ds_packed;  // P^T and dS^T, the latter also as a packed operand
    float *dk, *dv;         // [panels][64, 64]
    float* dq;              // [64, D]
    size_t bytes;
  };

  static size_t ScratchBytes(const AttentionArgs<T>& a) { return Scratch(a, nullptr).bytes; }

  static void Head(const Args& args, size_t head, std::byte* memory) {
    const AttentionArgs<T>& a = args.forward;
    const Scratch t(a, memory);
    PrepareQueries(args, head, t);
    const size_t offset = a.head_at(head, a.kv_batch);
    for (size_t key = 0; key < a.Tk; key += kBlock) {
      const size_t keys = std::min(kBlock, a.Tk - key), at = offset + key * a.kv_row;
      CopyRows(a.k + at, a.kv_row, keys, a.D, t.k, kBlock, t.depth);
      CopyRows(a.v + at, a.kv_row, keys, a.D, t.v, kBlock, t.depth);
      Transpose(a.k + at, a.kv_row, keys, a.D, t.kt, kBlock);
      for (size_t block = key / kBlock; block < t.blocks; ++block) Square(a, head, key, block, t);
      for (size_t r = 0; r < keys; ++r) {
        for (size_t c = 0; c < a.D; c += kColumns) {
          const size_t n = std::min(kColumns, a.D - c), from = c * kColumns + r * kColumns;
          const size_t to = at + r * a.kv_row + c;
          StoreRow(t.dk + from, n, args.dk + to);
          StoreRow(t.dv + from, n, args.dv + to);
        }
      }
    }
    for (size_t block = 0; block < t.blocks; ++block) {
      Transpose(t.dqt + block * a.D * kBlock, kBlock, a.D, kBlock, t.dq, a.D);
      const size_t query = block * kBlock, queries = std::min(kBlock, a.Tq - query);
      T* to = args.dq + a.head_at(head, a.q_batch) + query * a.q_row;
      for (size_t r = 0; r < queries; ++r) StoreRow(t.dq + r * a.D, a.D, to + r * a.q_row);
    }
  }

 private:
  static void StoreRow(const float* from, size_t n, T* to) {
    ForVectors(n, [&](auto tag, size_t c) { StoreF(tag, LoadF(tag, from + c), to + c); });
  }

  static void PrepareQueries(const Args& args, size_t head, const Scratch& t) {
    const AttentionArgs<T>& a = args.forward;
    const T* q = a.q + a.head_at(head, a.q_batch);
    const size_t y_offset = a.head_at(head, a.y_batch);
    for (size_t block = 0; block < t.blocks; ++block) {
      const size_t query = block * kBlock, queries = std::min(kBlock, a.Tq - query);
      const T *qs = q + query * a.q_row, *dys = args.dy + y_offset + query * a.y_row;
      PackColumns<E>(qs, a.q_row, queries, a.D, t.q_cols + block * t.depth * kBlock);
      PackColumns<E>(dys, a.y_row, queries, a.D, t.dy_cols + block * t.depth * kBlock);
      for (size_t panel = 0; panel < t.panels; ++panel) {
        const size_t c = panel * kColumns, n = std::min(kColumns, a.D - c);
        const size_t at = (block * t.panels + panel) * kSquare;
        PackRows<E>(qs + c, a.q_row, queries, n, kBlock / E::kPair, t.q_rows + at);
        PackRows<E>(dys + c, a.y_row, queries, n, kBlock / E::kPair, t.dy_rows + at);
      }
    }
    for (size_t i = 0; i < t.blocks * kBlock; ++i) {
      t.lse[i] = t.delta[i] = 0.0F;  // beyond the last query everything is zero
      if (i >= a.Tq) continue;
      t.lse[i] = a.lse[head * a.Tq + i];
      const T *y = a.y + y_offset + i * a.y_row, *dy = args.dy + y_offset + i * a.y_row;
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

  // 64 keys from `key` and one block of queries.
  static void Square(const AttentionArgs<T>& a, size_t head, size_t key, size_t block,
                     const Scratch& t) {
    const size_t words = t.depth / E::kPair, columns = block * t.depth * kBlock;
    // On the diagonal a strip of keys only meets the queries from its own on.
    const bool diagonal = block * kBlock == key;
    const size_t strip = diagonal ? kStrip : kBlock;
    for (size_t r = 0; r < kBlock; r += strip) {
      const size_t first = diagonal ? r : 0, b = columns + first * E::kPair;
      const size_t c = r * kBlock + first;
      Tile<E>(strip, kBlock - first, t.k + r * t.depth, t.depth, t.q_cols + b, words, t.s + c,
              kBlock);
      Tile<E>(strip, kBlock - first, t.v + r * t.depth, t.depth, t.dy_cols + b, words, t.dp + c,
              kBlock);
    }
    if (diagonal) MaskLater(t.s, kBlock, 0, 0);
    Gradients(a, head, key, block, t);
    for (size_t panel = 0; panel < t.panels; ++panel) {
      const size_t n = std::min(kColumns, a.D - panel * kColumns);
      const size_t at = (block * t.panels + panel) * kSquare, to = panel * kSquare;
      for (size_t r = 0; r < kBlock; r += strip) {
        const size_t first = diagonal ? r : 0, left = (kBlock - first) / E::kPair;
        const size_t from = r * kBlock + first, b = at + first * kColumns;
        const Sum sum = diagonal ? Sum::kSet : Sum::kAdd;
        Tile<E>(strip, n, t.p + from, kBlock, t.dy_rows + b, left, t.dv + to + r * kColumns,
                kColumns, sum);
        Tile<E>(strip, n, t.ds + from, kBlock, t.q_rows + b, left, t.dk + to + r * kColumns,
                kColumns, sum);
      }
    }
    for (size_t c = 0; c < kBlock; c += strip) {
      const size_t keys = diagonal ? c + strip : kBlock;
      Tile<E>(a.D, strip, t.kt, kBlock, t.ds_packed + c * E::kPair, keys / E::kPair,
              t.dqt + block * a.D * kBlock + c, kBlock, Sum::kAdd);
    }
  }

  // P^T and dS^T from S^T and dP^T.
  static HWY_NOINLINE void Gradients(const AttentionArgs<T>& a, size_t head, size_t key,
                                     size_t block, const Scratch& t) {
    const DF d;
    const ProbabilityDropout dropout(a, head, block * kBlock);
    const float root = std::sqrt(float(a.D));
    const VF scale = hn::Set(d, 1.0F / root), scale2 = hn::Set(d, kLog2E / root);
    for (size_t c = 0; c < kBlock; c += kLanes) {
      const VF lse = hn::Load(d, t.lse + block * kBlock + c);
      const VF delta = hn::Load(d, t.delta + block * kBlock + c);
      const size_t rows = key == block * kBlock ? StripEnd(c) : kBlock;
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
        StorePacked(ds, PackedAt<E>(t.ds_packed, r, c));
        StorePacked(ds + 2, PackedAt<E>(t.ds_packed, r + 2, c));
      }
    }
  }
};

template <class E>
AttentionKernels<typename E::T> MakeAttentionKernels() {
  return {Forward<E>::PackedBytes, Forward<E>::ScratchBytes, Backward<E>::ScratchBytes,
          Forward<E>::Pack,        Forward<E>::Block,        Backward<E>::Head};
}

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();

#endif
