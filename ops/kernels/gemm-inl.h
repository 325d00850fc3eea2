// The tasks of ops/kernels/gemm.h. Only for files that define GIGAGPT_BF16_DOT.
#pragma once

#include "ops/kernels/gemm.h"
#include "ops/kernels/transpose_bf16-inl.h"

HWY_BEFORE_NAMESPACE();
GIGAGPT_SIMD_TARGET
namespace gigagpt::ops::kernels::GIGAGPT_SIMD {

// A tile of C in fp32 (24 KiB) stays in the first-level cache while K runs; the rows of A and the
// panel of B that meet in it for one stretch of K stay in the second-level one.
static_assert(kColumns == kGemmPanel);
constexpr size_t kTileRows = 96;
constexpr size_t kDepth = 768;

inline size_t PanelElements(size_t K) {
  return RoundUp(K, 2) * kColumns;
}

inline void PackPanel(const Bf16* b, size_t ldb, bool in_rows, size_t K, size_t N, size_t task,
                      std::byte* packed) {
  const size_t column = task * kColumns, columns = std::min(kColumns, N - column);
  Bf16* to = reinterpret_cast<Bf16*>(packed) + task * PanelElements(K);
  if (in_rows)
    PackRows(b + column, ldb, K, columns, RoundUp(K, 2) / 2, to);
  else
    PackColumns(b + column * ldb, ldb, columns, K, to);
}

// n columns of a tile's row on their way to c at `at`; kAll: all 64 of them.
template <bool kAll, class Y>
HWY_INLINE void FinishRow(const Bf16Gemm& g, const float* sum, size_t column, size_t n, Y* to,
                          size_t at) {
  ForVectors(kAll ? kColumns : n, [&](auto tag, size_t j) {
    auto v = LoadF(tag, sum + j);
    if (g.bias != nullptr) v = hn::Add(v, LoadF(tag, g.bias + column + j));
    if (g.residual != nullptr) v = hn::Add(LoadF(tag, g.residual + at + j), v);
    if (std::is_same_v<Y, float> && g.add) v = hn::Add(LoadF(tag, to + at + j), v);
    StoreF(tag, v, to + at + j);
  });
}

inline void StreamRow(const float* sum, float* to) {
  const DF d;
  for (size_t j = 0; j < kColumns; j += kLanes) hn::Stream(hn::Load(d, sum + j), d, to + j);
}

// A tile's sums [rows, 64] on their way to c.
template <class Y>
void FinishTile(const Bf16Gemm& g, const float* sums, size_t row, size_t rows, size_t column,
                size_t columns, Y* to) {
  const bool plain = g.bias == nullptr && g.residual == nullptr && !g.add;
  for (size_t r = 0; r < rows; ++r) {
    const float* sum = sums + r * kColumns;
    const size_t at = (row + r) * g.ldc + column;
    if constexpr (std::is_same_v<Y, float>) {
      if (g.stream && plain && columns == kColumns &&
          reinterpret_cast<uintptr_t>(to + at) % 64 == 0) {
        StreamRow(sum, to + at);
        continue;
      }
    }
    if (columns == kColumns)
      FinishRow<true>(g, sum, column, columns, to, at);
    else
      FinishRow<false>(g, sum, column, columns, to, at);
  }
}

inline void TileTask(const Bf16Gemm& g, size_t task) {
  const size_t row_tiles = (g.M + kTileRows - 1) / kTileRows;
  const size_t panels = (g.N + kColumns - 1) / kColumns;
  // The larger operand is walked once, the smaller one stays in cache.
  const size_t row_tile = g.N > g.M ? task % row_tiles : task / panels;
  const size_t panel = g.N > g.M ? task / row_tiles : task % panels;
  const size_t row = row_tile * kTileRows, column = panel * kColumns;
  const size_t rows = std::min(kTileRows, g.M - row), columns = std::min(kColumns, g.N - column);
  const Bf16* b = reinterpret_cast<const Bf16*>(g.b) + panel * PanelElements(g.K);
  alignas(64) float sums[kTileRows * kColumns];
  for (size_t k = 0; k < g.K; k += kDepth) {
    const size_t words = (std::min(kDepth, g.K - k) + 1) / 2;
    Tile(rows, kColumns, g.a + row * g.lda + k, g.lda, b + k * kColumns, words, sums, kColumns,
         k == 0 ? Sum::kSet : Sum::kAdd);
  }
  if (g.c_bf16 != nullptr)
    FinishTile(g, sums, row, rows, column, columns, g.c_bf16);
  else
    FinishTile(g, sums, row, rows, column, columns, g.c);
  if (g.stream) hwy::FlushStream();
}

// 64 columns of x, 32 rows at a time.
template <class T>
void TransposeTask(const T* x, size_t ldx, size_t rows, size_t columns, size_t task, Bf16* y,
                   size_t ldy, float* sums) {
  const size_t column = task * kColumns, n = std::min(kColumns, columns - column);
  const size_t fast_rows = rows / 32 * 32, fast_columns = n / 16 * 16;
  alignas(64) float totals[kColumns] = {};
  for (size_t r = 0; r < rows; r += 32) {
    const size_t strip = std::min<size_t>(32, rows - r);
    const T* from = x + r * ldx + column;
    for (size_t c = 0; c < fast_columns && r < fast_rows; c += 16)
      TransposeSquare(from + c, ldx, y + (column + c) * ldy + r, ldy);
    for (size_t c = r < fast_rows ? fast_columns : 0; c < n; ++c) {
      for (size_t i = 0; i < strip; ++i) {
        StoreF(D1(), LoadF(D1(), from + i * ldx + c), y + (column + c) * ldy + r + i);
      }
    }
    if (sums == nullptr) continue;
    ForVectors(n, [&](auto tag, size_t c) {
      auto total = LoadF(tag, totals + c);
      for (size_t i = 0; i < strip; ++i) total = hn::Add(total, LoadF(tag, from + i * ldx + c));
      StoreF(tag, total, totals + c);
    });
  }
  for (size_t c = column; c < column + n; ++c)
    std::fill(y + c * ldy + rows, y + (c + 1) * ldy, Bf16{});
  if (sums != nullptr) std::copy_n(totals, n, sums + column);
}

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();
