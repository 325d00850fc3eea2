// What the kernels share: vectors of floats that may lie in memory as bf16. Included once for each
// Highway target, inside a file that is compiled for several (see Highway's quick reference).
#if defined(GIGAGPT_OPS_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GIGAGPT_OPS_KERNELS_SIMD_INL_H_
#undef GIGAGPT_OPS_KERNELS_SIMD_INL_H_
#else
#define GIGAGPT_OPS_KERNELS_SIMD_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "ops/kernels/bf16.h"

// In a file that defines GIGAGPT_WANT_BF16_DOT, AVX-512 comes with AVX512_BF16, which Highway does
// not know. Names lie in a namespace of their own there, or the linker would mix them with the
// others.
#undef GIGAGPT_BF16_DOT
#undef GIGAGPT_SIMD
#undef GIGAGPT_SIMD_TARGET
#if defined(GIGAGPT_WANT_BF16_DOT) && HWY_TARGET == HWY_AVX3
#define GIGAGPT_BF16_DOT
#define GIGAGPT_SIMD N_AVX3_BF16
#define GIGAGPT_SIMD_TARGET _Pragma("GCC target(\"avx512bf16\")")
#else
#define GIGAGPT_SIMD HWY_NAMESPACE
#define GIGAGPT_SIMD_TARGET
#endif

HWY_BEFORE_NAMESPACE();
GIGAGPT_SIMD_TARGET
namespace gigagpt::ops::kernels::GIGAGPT_SIMD {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using D1 = hn::CappedTag<float, 1>;

// Lanes(DF()) as a constant: vectors have a fixed size on the targets used.
constexpr size_t kLanes = hn::MaxLanes(DF());

template <class D>
HWY_INLINE hn::Vec<D> LoadF(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> LoadF(D d, const Bf16* from) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}

template <class D>
HWY_INLINE void StoreF(D d, hn::Vec<D> v, float* to) {
  hn::StoreU(v, d, to);
}

// The upper halves of the floats, rounded to nearest even, in the lower halves of 32-bit lanes.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<uint32_t, D>> RoundToBf16(D, hn::Vec<D> v) {
  const hn::Rebind<uint32_t, D> d32;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fff)));
  // Rounding could carry a NaN's payload into its sign and exponent; it becomes a quiet one
  // instead.
  const auto nan = hn::RebindMask(d32, hn::IsNaN(v));
  return hn::ShiftRight<16>(hn::IfThenElse(nan, hn::Or(bits, hn::Set(d32, 0x400000)), rounded));
}

template <class D>
HWY_INLINE void StoreF(D d, hn::Vec<D> v, Bf16* to) {
#ifdef GIGAGPT_BF16_DOT
  if constexpr (hn::MaxLanes(d) == 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v.raw)));
    return;
  }
#endif
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<int32_t, D> d32;
  const auto bits = hn::BitCast(d32, RoundToBf16(d, v));
  hn::StoreU(hn::DemoteTo(d16, bits), d16, reinterpret_cast<uint16_t*>(to));
}

// Calls f(tag, i) for i = 0, kLanes, ... and then for single elements.
template <class F>
HWY_INLINE void ForVectors(size_t n, F f) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(DF(), i);
  for (; i < n; ++i) f(D1(), i);
}

// 2^x to 2e-7 relative, exactly 0 below 2^-126. x at most 127.
template <class D>
HWY_INLINE hn::Vec<D> Exp2(D d, hn::Vec<D> x) {
  const hn::Rebind<int32_t, D> d32;
  // Adding 1.5 * 2^23 + 127 leaves the nearest integer, as an exponent has it, in the low bits.
  const auto magic = hn::Set(d, 12583039.0F);
  const auto least = hn::Set(d, -126.0F);
  const auto shifted = hn::Add(x, magic);
  const auto f = hn::Sub(x, hn::Sub(shifted, magic));  // in [-1/2, 1/2], if x is not too small
  auto p = hn::Set(d, 1.32647287e-3F);  // 1 at 0, else least in the largest relative error
  p = hn::MulAdd(p, f, hn::Set(d, 9.67151318e-3F));
  p = hn::MulAdd(p, f, hn::Set(d, 5.55073374e-2F));
  p = hn::MulAdd(p, f, hn::Set(d, 2.40222421e-1F));
  p = hn::MulAdd(p, f, hn::Set(d, 6.93146978e-1F));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0F));
  const auto power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(d32, shifted)));
  return hn::IfThenZeroElse(hn::Lt(x, least), hn::Mul(p, power));  // a NaN is not below
}

constexpr float kLog2E = 1.4426950408889634F;

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();

#endif
