// Matrix products: oneDNN's, or for bf16 on AVX512_BF16 without AMX our own, which is a little
// faster there and needs no pass of its own over the result (ops/kernels/gemm.h). ATen's fp32
// products go to a BLAS with threads of its own.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace gigagpt::ops {

// True if this CPU multiplies bf16 in hardware (AVX512_BF16 or AMX).
bool has_native_bf16();
// True if products of bf16 matrices are our own; for a test or a measurement, `use_own_gemm(false)`
// leaves them to oneDNN.
bool has_own_gemm();
void use_own_gemm(bool use);

// What is done with a product on its way to c.
struct GemmExtras {
  at::Tensor bias = {};      // [N] fp32, added to every row
  at::Tensor residual = {};  // [M, N] fp32, added; c must be fp32
  bool add = false;          // to what c holds (fp32)
  bool read_late = false;    // by then no cache holds it: it is written past them
};

// c = a b. a [..., M, K], b [..., K, N], c [..., M, N]; two to four dimensions (two with extras
// other than a bias), equal batch dimensions, any strides (transposed views are free). a and b are
// both fp32 or both bf16, c is fp32 or of their type; sums are kept in fp32. Deterministic for a
// fixed thread count.
void gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c,
          const GemmExtras& extras = {});
// The same in two dimensions. a may have one column of zeros more than b has rows: pairs of bf16
// are multiplied at once.
void padded_gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c,
                 const GemmExtras& extras = {});

// x [R, N], rows of fp32 or bf16, as the left operand of x^T b: [N, R] of `type`. Fills `sums` [N]
// fp32, if defined, with the sums of x's columns.
at::Tensor transposed(const at::Tensor& x, at::ScalarType type, const at::Tensor& sums);

// x in that type; x itself if it has it. Faster than ATen's for fp32 -> bf16.
at::Tensor as_type(const at::Tensor& x, at::ScalarType type);

// The best rate of a large product in that type on this machine by what gemm uses, in FLOP/s,
// measured for about a third of a second.
double measure_gemm_flops(at::ScalarType type);

}  // namespace gigagpt::ops
