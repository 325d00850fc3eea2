// Matrices rearranged for ops/kernels/tile-inl.h.
#if defined(GIGAGPT_OPS_KERNELS_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GIGAGPT_OPS_KERNELS_PACK_INL_H_
#undef GIGAGPT_OPS_KERNELS_PACK_INL_H_
#else
#define GIGAGPT_OPS_KERNELS_PACK_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "ops/kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
GIGAGPT_SIMD_TARGET
namespace gigagpt::ops::kernels::GIGAGPT_SIMD {

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
void TransposeAnyhow(const T* x, size_t ldx, size_t rows, size_t columns, T* y, size_t ldy) {
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
template <class T>
void Transpose(const T* x, size_t ldx, size_t rows, size_t columns, T* y, size_t ldy) {
  TransposeAnyhow(x, ldx, rows, columns, y, ldy);
}

// Zeroes the columns of a packed panel from `columns` on.
template <class E, class T = typename E::T>
void ZeroColumns(size_t columns, size_t words, T* packed) {
  if (columns == kColumns) return;
  for (size_t w = 0; w < words; ++w) {
    std::fill(packed + (w * kColumns + columns) * E::kPair, packed + (w + 1) * kColumns * E::kPair,
              T{});
  }
}

// A panel of B = x^T for a product over x's columns: x [rows <= 64, depth] ->
// [ceil(depth / kPair)][64][kPair], filled up with zeros.
template <class E>
void PackColumnsAnyhow(const typename E::T* x, size_t ldx, size_t rows, size_t depth,
                       typename E::T* packed) {
  using T = typename E::T;
  const size_t whole = depth / E::kPair, words = RoundUp(depth, E::kPair) / E::kPair;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t w = 0; w < whole; ++w) {
      std::memcpy(packed + (w * kColumns + r) * E::kPair, x + r * ldx + w * E::kPair,
                  E::kPair * sizeof(T));
    }
    if (whole < words) {
      packed[(whole * kColumns + r) * E::kPair] = x[r * ldx + depth - 1];
      packed[(whole * kColumns + r) * E::kPair + 1] = T{};
    }
  }
  ZeroColumns<E>(rows, words, packed);
}
template <class E>
void PackColumns(const typename E::T* x, size_t ldx, size_t rows, size_t depth,
                 typename E::T* packed) {
  PackColumnsAnyhow<E>(x, ldx, rows, depth, packed);
}

// A panel of B = x for a product over x's rows: x [depth, columns <= 64] ->
// [words][64][kPair] with words >= ceil(depth / kPair), filled up with zeros.
template <class E>
void PackRowsAnyhow(const typename E::T* x, size_t ldx, size_t depth, size_t columns, size_t words,
                    typename E::T* packed) {
  using T = typename E::T;
  for (size_t w = 0; w < words; ++w) {
    T* to = packed + w * kColumns * E::kPair;
    for (size_t e = 0; e < E::kPair; ++e) {
      const size_t row = w * E::kPair + e, n = row < depth ? columns : 0;
      for (size_t j = 0; j < n; ++j) to[j * E::kPair + e] = x[row * ldx + j];
      for (size_t j = n; j < kColumns; ++j) to[j * E::kPair + e] = T{};
    }
  }
}
template <class E>
void PackRows(const typename E::T* x, size_t ldx, size_t depth, size_t columns, size_t words,
              typename E::T* packed) {
  PackRowsAnyhow<E>(x, ldx, depth, columns, words, packed);
}

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();

#endif
