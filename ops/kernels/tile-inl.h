// The register kernel that all products here are made of: C [R, 64] = A [R, K] B [K, 64], with B
// packed so that what meets one 32-bit word of A lies together. Sums are fp32.
//
// A word is one float, or a pair of bf16 along K that one instruction multiplies and adds. Packed B
// is [K / kPair][64][kPair] and 64-byte aligned.
#if defined(GIGAGPT_OPS_KERNELS_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GIGAGPT_OPS_KERNELS_TILE_INL_H_
#undef GIGAGPT_OPS_KERNELS_TILE_INL_H_
#else
#define GIGAGPT_OPS_KERNELS_TILE_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "ops/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
GIGAGPT_SIMD_TARGET
namespace gigagpt::ops::kernels::GIGAGPT_SIMD {

constexpr size_t kColumns = 64;  // of a packed panel
template <class T>
constexpr size_t kPair = sizeof(float) / sizeof(T);  // elements of a word

// A word of A in all lanes, words of packed B, and sum + a b.
HWY_INLINE VF SplatA(const float* a) {
  return hn::Set(DF(), *a);
}
HWY_INLINE VF LoadB(const float* b) {
  return hn::Load(DF(), b);
}
HWY_INLINE VF AddProducts(VF sum, VF a, VF b) {
  return hn::MulAdd(a, b, sum);
}

#ifdef GIGAGPT_BF16_DOT
HWY_INLINE __m512i SplatA(const Bf16* a) {
  int32_t pair;
  std::memcpy(&pair, a, sizeof(pair));
  return _mm512_set1_epi32(pair);
}
HWY_INLINE __m512i LoadB(const Bf16* b) {
  return _mm512_load_si512(b);
}
HWY_INLINE VF AddProducts(VF sum, __m512i a, __m512i b) {
  return VF{
      _mm512_dpbf16_ps(sum.raw, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b))};
}
#endif

// What happens to what C holds.
enum class Sum {
  kSet,      // C = A B
  kAdd,      // C += A B
  kRescale,  // C = C diag(scale) + A B, scale one float a column
};

// kRows rows of A times kVectors vectors of B's columns, all sums in registers.
template <int kRows, int kVectors, class T>
HWY_INLINE void MicroTile(const T* a, size_t lda, const T* b, size_t words, float* c, size_t ldc,
                          Sum sum, const float* scale) {
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
    decltype(LoadB(b)) bv[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      bv[j] = LoadB(b + (p * kColumns + j * kLanes) * kPair<T>);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto av = SplatA(a + r * lda + p * kPair<T>);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) s[r][j] = AddProducts(s[r][j], av, bv[j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) hn::StoreU(s[r][j], d, c + r * ldc + j * kLanes);
  }
}

// As many rows at once as the registers hold; the last ones four and one at a time.
template <int kVectors, class T>
HWY_INLINE void TileRows(size_t rows, const T* a, size_t lda, const T* b, size_t words, float* c,
                         size_t ldc, Sum sum, const float* scale) {
  size_t r = 0;
  // Rows of 6 + 6 + ... + 4 or 4 + 4 leave no slow single rows in the common 64 and 128.
  const size_t fours = rows % 6 == 4 ? 1 : rows % 6 == 2 && rows >= 8 ? 2 : 0;
  for (; r + 6 + 4 * fours <= rows; r += 6)
    MicroTile<6, kVectors>(a + r * lda, lda, b, words, c + r * ldc, ldc, sum, scale);
  for (; r + 4 <= rows; r += 4)
    MicroTile<4, kVectors>(a + r * lda, lda, b, words, c + r * ldc, ldc, sum, scale);
  for (; r < rows; ++r)
    MicroTile<1, kVectors>(a + r * lda, lda, b, words, c + r * ldc, ldc, sum, scale);
}

// C [rows, columns] over A [rows, words] and one panel of B. C's rows are ldc >= 64 floats apart:
// columns are rounded up to whole groups of vectors, and what lies between is overwritten.
template <class T>
HWY_NOINLINE void Tile(size_t rows, size_t columns, const T* a, size_t lda, const T* b,
                       size_t words, float* c, size_t ldc, Sum sum = Sum::kSet,
                       const float* scale = nullptr) {
  constexpr int kGroup = HWY_TARGET == HWY_AVX3 ? 4 : 2;  // 32 vector registers, or 16
  for (size_t j = 0; j < columns;) {
    const auto* group = b + j * kPair<T>;
    const float* group_scale = scale == nullptr ? nullptr : scale + j;
    const auto run = [&](auto vectors) {
      TileRows<vectors>(rows, a, lda, group, words, c + j, ldc, sum, group_scale);
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

// What follows rearranges matrices for it. These are the general forms; transpose_bf16-inl.h has
// overloads that are faster.

constexpr size_t RoundUp(size_t n, size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// x [rows, columns] -> to [all_rows, all_columns], filled up with zeros.
template <class T>
void CopyRows(const T* x, size_t ldx, size_t rows, size_t columns, T* to, size_t all_rows,
              size_t all_columns) {
  for (size_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * all_columns, x + r * ldx, columns * sizeof(T));
    std::fill(to + r * all_columns + columns, to + (r + 1) * all_columns, T{});
  }
  std::fill(to + rows * all_columns, to + all_rows * all_columns, T{});
}

// x [rows, columns], rows <= ldy -> y [columns, ldy] = x^T, filled up with zeros.
template <class T>
void Transpose(const T* x, size_t ldx, size_t rows, size_t columns, T* y, size_t ldy) {
  constexpr size_t kStrip = 16;
  for (size_t r0 = 0; r0 < rows; r0 += kStrip) {
    const size_t strip = std::min(kStrip, rows - r0);
    for (size_t c = 0; c < columns; ++c) {
      for (size_t r = r0; r < r0 + strip; ++r) y[c * ldy + r] = x[r * ldx + c];
    }
  }
  if (rows == ldy) return;
  for (size_t c = 0; c < columns; ++c) std::fill(y + c * ldy + rows, y + (c + 1) * ldy, T{});
}

// Zeroes the columns of a packed panel from `columns` on.
template <class T>
void ZeroColumns(size_t columns, size_t words, T* packed) {
  if (columns == kColumns) return;
  for (size_t w = 0; w < words; ++w) {
    std::fill(packed + (w * kColumns + columns) * kPair<T>, packed + (w + 1) * kColumns * kPair<T>,
              T{});
  }
}

// A panel of B = x^T for a product over x's columns: x [rows <= 64, depth] ->
// [ceil(depth / kPair)][64][kPair], filled up with zeros.
template <class T>
void PackColumns(const T* x, size_t ldx, size_t rows, size_t depth, T* packed) {
  const size_t whole = depth / kPair<T>, words = RoundUp(depth, kPair<T>) / kPair<T>;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t w = 0; w < whole; ++w) {
      std::memcpy(packed + (w * kColumns + r) * kPair<T>, x + r * ldx + w * kPair<T>,
                  kPair<T> * sizeof(T));
    }
    if (whole < words) {
      packed[(whole * kColumns + r) * kPair<T>] = x[r * ldx + depth - 1];
      packed[(whole * kColumns + r) * kPair<T> + 1] = T{};
    }
  }
  ZeroColumns(rows, words, packed);
}

// A panel of B = x for a product over x's rows: x [depth, columns <= 64] ->
// [words][64][kPair] with words >= ceil(depth / kPair), filled up with zeros.
template <class T>
void PackRows(const T* x, size_t ldx, size_t depth, size_t columns, size_t words, T* packed) {
  for (size_t w = 0; w < words; ++w) {
    T* to = packed + w * kColumns * kPair<T>;
    for (size_t e = 0; e < kPair<T>; ++e) {
      const size_t row = w * kPair<T> + e, n = row < depth ? columns : 0;
      for (size_t j = 0; j < n; ++j) to[j * kPair<T> + e] = x[row * ldx + j];
      for (size_t j = n; j < kColumns; ++j) to[j * kPair<T> + e] = T{};
    }
  }
}

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();

#endif
