// Matrix products through oneDNN, which keeps to the thread count it is given (ATen's fp32 products
// go to a BLAS with threads of its own).
#pragma once

#include <ATen/core/Tensor.h>

namespace gigagpt::ops {

// True if this CPU multiplies bf16 in hardware (AVX512_BF16 or AMX).
bool has_native_bf16();
// True if oneDNN computes in bf16 at all here (AVX-512); elsewhere gemm goes by way of fp32.
bool onednn_has_bf16();

// c = a b (+ bias on every row). a [..., M, K], b [..., K, N], c [..., M, N], bias [N] fp32 or
// undefined; two to four dimensions, equal batch dimensions, any strides (transposed views are
// free). a and b are both fp32 or both bf16, c is fp32 or of their type; sums are kept in fp32.
// Deterministic for a fixed thread count. Call from one thread at a time.
void gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c,
          const at::Tensor& bias = {});

// The best rate of a large product in that type on this machine, in FLOP/s, measured for about a
// third of a second.
double measure_gemm_flops(at::ScalarType type);

}  // namespace gigagpt::ops
