// The register kernel that all products here are made of: C [R, 64] = A [R, K] B [K, 64], with B
// packed so that what meets one 32-bit word of A lies together. Sums are fp32.
//
// An Element says what a word is: one float, or a pair of bf16 along K that one instruction
// multiplies and adds. Packed B is [K / kPair][64][kPair] and 64-byte aligned.
#if defined(GIGAGPT_OPS_KERNELS_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GIGAGPT_OPS_KERNELS_TILE_INL_H_
#undef GIGAGPT_OPS_KERNELS_TILE_INL_H_
#else
#define GIGAGPT_OPS_KERNELS_TILE_INL_H_
#endif

#include <cstring>

#include "ops/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
GIGAGPT_SIMD_TARGET
namespace gigagpt::ops::kernels::GIGAGPT_SIMD {

constexpr size_t kColumns = 64;  // of a packed panel

struct FloatElement {
  using T = float;
  static constexpr size_t kPair = 1;
  static HWY_INLINE VF Splat(const float* a) { return hn::Set(DF(), *a); }
  static HWY_INLINE VF LoadB(const float* b) { return hn::Load(DF(), b); }
  static HWY_INLINE VF Dot(VF sum, VF a, VF b) { return hn::MulAdd(a, b, sum); }
};

#ifdef GIGAGPT_BF16_DOT
struct Bf16Element {
  using T = Bf16;
  static constexpr size_t kPair = 2;
  static HWY_INLINE __m512i Splat(const Bf16* a) {
    int32_t pair;
    std::memcpy(&pair, a, sizeof(pair));
    return _mm512_set1_epi32(pair);
  }
  static HWY_INLINE __m512i LoadB(const Bf16* b) { return _mm512_load_si512(b); }
  static HWY_INLINE VF Dot(VF sum, __m512i a, __m512i b) {
    return VF{
        _mm512_dpbf16_ps(sum.raw, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b))};
  }
};
#endif

// What happens to what C holds.
enum class Sum {
  kSet,      // C = A B
  kAdd,      // C += A B
  kRescale,  // C = C diag(scale) + A B, scale one float a column
};

// kRows rows of A times kVectors vectors of B's columns, all sums in registers.
template <class E, int kRows, int kVectors>
HWY_INLINE void MicroTile(const typename E::T* a, size_t lda, const typename E::T* b, size_t words,
                          float* c, size_t ldc, Sum sum, const float* scale) {
  const DF d;
  VF s[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      s[r][j] = sum == Sum::kSet ? hn::Zero(d) : hn::LoadU(d, c + r * ldc + j * kLanes);
      if (sum == Sum::kRescale) s[r][j] = hn::Mul(s[r][j], hn::LoadU(d, scale + j * kLanes));
    }
  }
  for (size_t p = 0; p < words; ++p) {
    decltype(E::LoadB(b)) bv[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      bv[j] = E::LoadB(b + (p * kColumns + j * kLanes) * E::kPair);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto av = E::Splat(a + r * lda + p * E::kPair);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) s[r][j] = E::Dot(s[r][j], av, bv[j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) hn::StoreU(s[r][j], d, c + r * ldc + j * kLanes);
  }
}

// As many rows at once as the registers hold; the last ones four and one at a time.
template <class E, int kVectors>
HWY_INLINE void TileRows(size_t rows, const typename E::T* a, size_t lda, const typename E::T* b,
                         size_t words, float* c, size_t ldc, Sum sum, const float* scale) {
  size_t r = 0;
  // Rows of 6 + 6 + ... + 4 or 4 + 4 leave no slow single rows in the common 64 and 128.
  const size_t fours = rows % 6 == 4 ? 1 : rows % 6 == 2 && rows >= 8 ? 2 : 0;
  for (; r + 6 + 4 * fours <= rows; r += 6)
    MicroTile<E, 6, kVectors>(a + r * lda, lda, b, words, c + r * ldc, ldc, sum, scale);
  for (; r + 4 <= rows; r += 4)
    MicroTile<E, 4, kVectors>(a + r * lda, lda, b, words, c + r * ldc, ldc, sum, scale);
  for (; r < rows; ++r)
    MicroTile<E, 1, kVectors>(a + r * lda, lda, b, words, c + r * ldc, ldc, sum, scale);
}

// C [rows, columns] over A [rows, words] and one panel of B. C's rows are ldc >= 64 floats apart:
// columns are rounded up to whole groups of vectors, and what lies between is overwritten.
template <class E>
HWY_NOINLINE void Tile(size_t rows, size_t columns, const typename E::T* a, size_t lda,
                       const typename E::T* b, size_t words, float* c, size_t ldc,
                       Sum sum = Sum::kSet, const float* scale = nullptr) {
  constexpr int kGroup = HWY_TARGET == HWY_AVX3 ? 4 : 2;  // 32 vector registers, or 16
  for (size_t j = 0; j < columns;) {
    const auto* group = b + j * E::kPair;
    const float* group_scale = scale == nullptr ? nullptr : scale + j;
    const auto run = [&](auto vectors) {
      TileRows<E, vectors>(rows, a, lda, group, words, c + j, ldc, sum, group_scale);
      j += vectors * kLanes;
    };
    const size_t left = (columns - j + kLanes - 1) / kLanes;
    if (left >= kGroup) {  // NOLINT(bugprone-branch-clone): the constants differ
      run(std::integral_constant<int, kGroup>());
    } else if (left >= 2) {
      run(std::integral_constant<int, 2>());
    } else {
      run(std::integral_constant<int, 1>());
    }
  }
}

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();

#endif
