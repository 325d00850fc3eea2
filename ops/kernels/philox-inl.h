// base/random.h's philox for a vector of counters.
#if defined(GIGAGPT_OPS_KERNELS_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GIGAGPT_OPS_KERNELS_PHILOX_INL_H_
#undef GIGAGPT_OPS_KERNELS_PHILOX_INL_H_
#else
#define GIGAGPT_OPS_KERNELS_PHILOX_INL_H_
#endif

#include "ops/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
GIGAGPT_SIMD_TARGET
namespace gigagpt::ops::kernels::GIGAGPT_SIMD {

// The lower half of a * b, lane by lane, and in `high` the upper one.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Multiply32(D d, V a, uint32_t b, V& high) {
  if constexpr (hn::MaxLanes(d) == 1) {
    const uint64_t product = uint64_t{hn::GetLane(a)} * b;
    high = hn::Set(d, uint32_t(product >> 32));
    return hn::Set(d, uint32_t(product));
  } else {
    const auto factor = hn::Set(d, b);  // names below by their arguments: one lane has no such ones
    const auto even = hn::BitCast(d, hn::MulEven(a, factor));
    const auto odd = hn::BitCast(d, hn::MulEven(DupOdd(a), factor));
    const V low = OddEven(DupEven(odd), even);
    high = OddEven(odd, DupOdd(even));
    return low;
  }
}

// The four words of philox(key, counter) for counters given by their halves, in `words`.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void Philox(D d, uint64_t key, V low, V high, V words[4]) {
  V c0 = low, c1 = high, c2 = hn::Zero(d), c3 = hn::Zero(d);
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    V high0, high1;
    const V low0 = Multiply32(d, c0, 0xD2511F53U, high0);
    const V low1 = Multiply32(d, c2, 0xCD9E8D57U, high1);
    c0 = hn::Xor(hn::Xor(high1, c1), hn::Set(d, k0));
    c1 = low1;
    c2 = hn::Xor(hn::Xor(high0, c3), hn::Set(d, k1));
    c3 = low0;
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// What dropout multiplies with: 0 where the word is below p 2^32, else 1 / (1 - p).
template <class D, class V>
HWY_INLINE hn::Vec<D> DropoutFactor(D d, V word, uint32_t threshold, float scale) {
  const hn::Rebind<uint32_t, D> d32;
  // Unsigned a >= b as max(a, b) == a: not every target compares unsigned numbers.
  const auto kept = hn::Eq(hn::Max(word, hn::Set(d32, threshold)), word);
  return hn::IfThenElseZero(hn::RebindMask(d, kept), hn::Set(d, scale));
}

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();

#endif
