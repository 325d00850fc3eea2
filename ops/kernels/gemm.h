// C = A B in bf16 with fp32 sums, on AVX512_BF16: an alternative to oneDNN that packs B, whichever
// way it lies, and finishes each tile while it is in cache. Plain arrays, no LibTorch.
#pragma once

#include <cstddef>

#include "ops/kernels/bf16.h"

namespace gigagpt::ops::kernels {

constexpr size_t kGemmPanel = 64;  // columns that a task packs or transposes

// A [M, K], rows lda apart, readable up to an even K; the rest of the last pair is zero.
struct Bf16Gemm {
  size_t M, K, N;
  const Bf16* a;
  size_t lda;
  const std::byte* b;  // packed, 64-byte aligned
  // Of A B, plus bias [N] on each row and residual [M, N] if given, either c [M, N] or, rounded,
  // c_bf16. `add`: to what c holds.
  const float* bias;
  const float* residual;  // as far apart as the rows of c
  float* c;
  Bf16* c_bf16;
  size_t ldc;
  bool add;
  bool stream;  // write c past the caches
};

// Tasks may run on any thread; all only where has_avx512_bf16().
size_t gemm_packed_bytes(size_t K, size_t N);
// Packs 64 columns of B: task < ceil(N / 64). B [K, N] lies in rows, or transposed as [N, K].
void gemm_pack(const Bf16* b, size_t ldb, bool in_rows, size_t K, size_t N, size_t task,
               std::byte* packed);
size_t gemm_tasks(const Bf16Gemm& gemm);
void gemm_task(const Bf16Gemm& gemm, size_t task);
// x [rows, columns] -> y [columns, ldy] = x^T for 64 columns of x: task < ceil(columns / 64). ldy
// is at least `rows`; what is beyond is zeroed. x is fp32 or bf16. With `sums` [columns], those of
// the columns are written there.
template <class T>
void gemm_transpose(const T* x, size_t ldx, size_t rows, size_t columns, size_t task, Bf16* y,
                    size_t ldy, float* sums);

}  // namespace gigagpt::ops::kernels
