// What takes AVX512_BF16 instructions: products of bf16, and rounding to it.
#define GIGAGPT_WANT_BF16_DOT
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/kernels/bf16_dot.cpp"
#include <hwy/foreach_target.h>

#include "ops/kernels/attention_backward-inl.h"
#ifdef GIGAGPT_BF16_DOT
#include "ops/kernels/gemm-inl.h"
#endif
#include "ops/kernels/rows-inl.h"

#if HWY_ONCE
#include <hwy/targets.h>

#include <cstdlib>
#include <string_view>

namespace gigagpt::ops::kernels {

namespace {

// GIGAGPT_MAX_CPU=avx2 or =baseline leaves newer instructions unused, to test what other CPUs run.
// Before main, as Highway chooses at the first call.
const bool avx512_allowed = [] {
  const char* most = std::getenv("GIGAGPT_MAX_CPU");
  if (most == nullptr) return true;
  hwy::DisableTargets(std::string_view(most) == "avx2" ? HWY_AVX3 : HWY_AVX3 | HWY_AVX2);
  return false;
}();

}  // namespace

bool has_avx512_bf16() {
  return avx512_allowed && __builtin_cpu_supports("avx512bf16") != 0;
}

using namespace N_AVX3_BF16;

template <>
const AttentionKernels<Bf16>& attention_kernels<Bf16>() {
  return kAttentionKernels<Bf16>;
}

const RowKernels<Bf16>& row_kernels_avx512_bf16() {
  return kRowKernels<Bf16>;
}

size_t gemm_packed_bytes(size_t K, size_t N) {
  return PanelElements(K) * ((N + kColumns - 1) / kColumns) * sizeof(Bf16);
}

void gemm_pack(const Bf16* b, size_t ldb, bool in_rows, size_t K, size_t N, size_t task,
               std::byte* packed) {
  PackPanel(b, ldb, in_rows, K, N, task, packed);
}

size_t gemm_tasks(const Bf16Gemm& g) {
  return (g.M + kTileRows - 1) / kTileRows * ((g.N + kColumns - 1) / kColumns);
}

void gemm_task(const Bf16Gemm& gemm, size_t task) {
  TileTask(gemm, task);
}

template <class T>
void gemm_transpose(const T* x, size_t ldx, size_t rows, size_t columns, size_t task, Bf16* y,
                    size_t ldy, float* sums) {
  TransposeTask(x, ldx, rows, columns, task, y, ldy, sums);
}
template void gemm_transpose(const float*, size_t, size_t, size_t, size_t, Bf16*, size_t, float*);
template void gemm_transpose(const Bf16*, size_t, size_t, size_t, size_t, Bf16*, size_t, float*);

}  // namespace gigagpt::ops::kernels
#endif
