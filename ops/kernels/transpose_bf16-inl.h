// Transposing bf16 sixteen 32-bit words at a time; the general forms are in ops/kernels/tile-inl.h.
// Only for files that define GIGAGPT_BF16_DOT, which are compiled for one target.
#pragma once

#include "ops/kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
GIGAGPT_SIMD_TARGET
namespace gigagpt::ops::kernels::GIGAGPT_SIMD {

// Words of an element of each.
HWY_INLINE __m512i Interleaved(__m256i even, __m256i odd) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}
HWY_INLINE __m512i InterleavedBf16(VF even, VF odd) {
  return Interleaved(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(even.raw)),
                     reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(odd.raw)));
}

// Sixteen rows of sixteen words in registers.
HWY_INLINE void TransposeWords(__m512i r[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // Now each 128-bit quarter is transposed; what is left is to transpose the 4 x 4 quarters.
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// y = x^T for sixteen rows of sixteen words.
template <class T>
HWY_INLINE void TransposeWords(const T* x, size_t ldx, T* y, size_t ldy) {
  __m512i r[16];
#pragma GCC unroll 16
  for (size_t i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(x + i * ldx);
  TransposeWords(r);
#pragma GCC unroll 16
  for (size_t i = 0; i < 16; ++i) _mm512_storeu_si512(y + i * ldy, r[i]);
}

// As the general form; whole groups of 16 rows and 16 words go through registers.
inline void PackColumns(const Bf16* x, size_t ldx, size_t rows, size_t depth, Bf16* packed) {
  if (rows % 16 != 0 || depth % 32 != 0) {
    return PackColumns<Bf16>(x, ldx, rows, depth, packed);
  }
  for (size_t row = 0; row < rows; row += 16) {
    for (size_t word = 0; word < depth / 2; word += 16) {
      TransposeWords(x + row * ldx + 2 * word, ldx, packed + (word * kColumns + row) * 2,
                     2 * kColumns);
    }
  }
  ZeroColumns(rows, depth / 2, packed);
}

HWY_INLINE __m512i PairOfRows(const Bf16* even, const Bf16* odd) {
  return Interleaved(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)),
                     _mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
}
HWY_INLINE __m512i PairOfRows(const float* even, const float* odd) {
  return InterleavedBf16(LoadF(DF(), even), LoadF(DF(), odd));
}

// y [16, 32] = x^T, x [32, 16].
template <class T>
HWY_INLINE void TransposeSquare(const T* x, size_t ldx, Bf16* y, size_t ldy) {
  __m512i r[16];
#pragma GCC unroll 16
  for (size_t i = 0; i < 16; ++i) r[i] = PairOfRows(x + 2 * i * ldx, x + (2 * i + 1) * ldx);
  TransposeWords(r);
#pragma GCC unroll 16
  for (size_t i = 0; i < 16; ++i) _mm512_storeu_si512(y + i * ldy, r[i]);
}

inline void Transpose(const Bf16* x, size_t ldx, size_t rows, size_t columns, Bf16* y, size_t ldy) {
  if (rows % 32 != 0 || columns % 16 != 0) {
    return Transpose<Bf16>(x, ldx, rows, columns, y, ldy);
  }
  for (size_t r = 0; r < rows; r += 32) {
    for (size_t c = 0; c < columns; c += 16)
      TransposeSquare(x + r * ldx + c, ldx, y + c * ldy + r, ldy);
  }
  for (size_t c = 0; c < columns; ++c) std::fill(y + c * ldy + rows, y + (c + 1) * ldy, Bf16{});
}

// A float is a word.
inline void Transpose(const float* x, size_t ldx, size_t rows, size_t columns, float* y,
                      size_t ldy) {
  if (rows % 16 != 0 || columns % 16 != 0 || rows != ldy) {
    return Transpose<float>(x, ldx, rows, columns, y, ldy);
  }
  for (size_t r = 0; r < rows; r += 16) {
    for (size_t c = 0; c < columns; c += 16) {
      TransposeWords(x + r * ldx + c, ldx, y + c * ldy + r, ldy);
    }
  }
}

// As the general form; whole pairs of rows and vectors of columns.
inline void PackRows(const Bf16* x, size_t ldx, size_t depth, size_t columns, size_t words,
                     Bf16* packed) {
  if (depth % 2 != 0 || columns % 16 != 0) {
    return PackRows<Bf16>(x, ldx, depth, columns, words, packed);
  }
  for (size_t w = 0; w < depth / 2; ++w) {
    Bf16* to = packed + w * kColumns * 2;
    for (size_t c = 0; c < columns; c += 16) {
      _mm512_storeu_si512(to + 2 * c, PairOfRows(x + 2 * w * ldx + c, x + (2 * w + 1) * ldx + c));
    }
    std::fill(to + 2 * columns, to + 2 * kColumns, Bf16{});
  }
  std::fill(packed + depth * kColumns, packed + words * kColumns * 2, Bf16{});
}

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();
