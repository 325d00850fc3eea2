#include "ops/gemm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <algorithm>

#include "base/error.h"
#include "base/system.h"
#include "ops/kernels/gemm.h"
#include "ops/kernels/rows.h"
#include "ops/onednn.h"
#include "ops/parallel.h"
#include "ops/pointers.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using kernels::Bf16;

size_t panels(int64_t columns) {
  return (size_t(columns) + kernels::kGemmPanel - 1) / kernels::kGemmPanel;
}

bool& own_gemm_wanted() {
  static bool wanted = true;
  return wanted;
}

bool is_own(const Tensor& b) {
  return has_own_gemm() && b.dim() == 2 && b.scalar_type() == at::kBFloat16 &&
         (b.stride(0) == 1 || b.stride(1) == 1);
}

Tensor pack(const Tensor& b) {
  const size_t K = size_t(b.size(0)), N = size_t(b.size(1));
  Tensor packed = at::empty({int64_t(kernels::gemm_packed_bytes(K, N))}, at::kByte);
  std::byte* to = bytes_of(packed);
  const bool in_rows = b.stride(1) == 1;
  const size_t ldb = size_t(in_rows ? b.stride(0) : b.stride(1));
  parallel_tasks(panels(b.size(1)), [&](size_t task, int) {
    kernels::gemm_pack(data<Bf16>(b), ldb, in_rows, K, N, task, to);
  });
  return packed;
}

// One row times a matrix that lies in rows along K: bound by reading it, so it is not packed.
void multiply_row(const Tensor& a, const Tensor& b, const Tensor& c, const GemmExtras& extras) {
  const size_t K = size_t(b.size(0)), N = size_t(b.size(1)), ldb = size_t(b.stride(1));
  const Tensor x = a.to(at::kFloat).contiguous();  // 1 K
  const Tensor y = at::empty({1, b.size(1)}, at::kFloat);
  float* sums = data<float>(y);
  dispatch_type(b, [&](auto element) {
    using T = decltype(element);
    const auto dot = kernels::row_kernels<T>().dot;
    parallel_parts(N, 16, [&](size_t begin, size_t end, size_t) {
      for (size_t n = begin; n < end; ++n) sums[n] = dot(data<float>(x), data<T>(b) + n * ldb, K);
    });
  });
  if (extras.bias.defined()) y.add_(extras.bias);
  if (extras.residual.defined()) y.add_(extras.residual);
  extras.add ? c.add_(y) : c.copy_(y);
}

void own_gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmExtras& extras) {
  const Tensor packed = pack(b);
  const bool bf16 = c.scalar_type() == at::kBFloat16;
  const kernels::Bf16Gemm g{size_t(c.size(0)),
                            size_t(b.size(0)),
                            size_t(c.size(1)),
                            data<Bf16>(a),
                            size_t(a.stride(0)),
                            bytes_of(packed),
                            extras.bias.defined() ? data<float>(extras.bias) : nullptr,
                            extras.residual.defined() ? data<float>(extras.residual) : nullptr,
                            bf16 ? nullptr : data<float>(c),
                            bf16 ? data<Bf16>(c) : nullptr,
                            size_t(c.stride(0)),
                            extras.add,
                            extras.read_late};
  parallel_tasks(kernels::gemm_tasks(g), [&](size_t task, int) { kernels::gemm_task(g, task); });
}

}  // namespace

bool has_own_gemm() {
  return own_gemm_wanted() && kernels::has_avx512_bf16() && has_native_bf16() && !has_amx();
}

void use_own_gemm(bool use) {
  own_gemm_wanted() = use;
}

void padded_gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmExtras& extras) {
  const int64_t K = b.size(0), even = (K + 1) / 2 * 2;
  GIGAGPT_ASSERT(a.dim() == 2 && (a.size(1) == K || a.size(1) == even));
  GIGAGPT_ASSERT(a.size(0) == c.size(0) && b.size(1) == c.size(1));
  if (c.numel() == 0) return;
  const bool residual_fits = !extras.residual.defined() || extras.residual.stride(0) == c.stride(0);
  if (is_own(b) && c.stride(1) == 1 && residual_fits) {
    if (a.size(1) == even && a.stride(1) == 1) return own_gemm(a, b, c, extras);
    if (a.stride(0) == 1) {
      const Tensor rows = transposed(a.t(), at::kBFloat16, {});  // M K, with even strides
      if (rows.size(1) == even) return own_gemm(rows, b, c, extras);
    }
  }
  onednn_gemm(a.narrow(1, 0, K), b, c, extras);
}

void gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmExtras& extras) {
  GIGAGPT_ASSERT(a.dim() == b.dim() && a.dim() == c.dim() && a.scalar_type() == b.scalar_type());
  GIGAGPT_ASSERT(a.size(-1) == b.size(-2) && a.size(-2) == c.size(-2) && b.size(-1) == c.size(-1));
  if (c.numel() == 0) return;
  if (c.dim() == 2 && c.size(0) == 1 && b.stride(0) == 1) return multiply_row(a, b, c, extras);
  if (c.dim() == 2 && is_own(b)) return padded_gemm(a, b, c, extras);
  onednn_gemm(a, b, c, extras);
}

Tensor transposed(const Tensor& x, at::ScalarType type, const Tensor& sums) {
  const int64_t R = x.size(0), N = x.size(1);
  if (type != at::kBFloat16 || !has_own_gemm() || x.stride(1) != 1) {
    if (sums.defined()) sums.copy_(x.sum({0}, false, at::kFloat));
    return as_type(x, type).t();
  }
  // Whole cache lines, and an odd number of them: columns a power of two apart share few places in
  // the cache. What is beyond R is zero.
  const int64_t stride = (R / 32 + 1) / 2 * 64 + 32;
  const Tensor y = at::empty({N, stride}, at::kBFloat16);
  float* column_sums = sums.defined() ? data<float>(sums) : nullptr;
  dispatch_type(x, [&](auto element) {
    using T = decltype(element);
    parallel_tasks(panels(N), [&](size_t task, int) {
      kernels::gemm_transpose(data<T>(x), size_t(x.stride(0)), size_t(R), size_t(N), task,
                              data<Bf16>(y), size_t(stride), column_sums);
    });
  });
  return y.narrow(1, 0, (R + 1) / 2 * 2);
}

Tensor as_type(const Tensor& x, at::ScalarType type) {
  if (x.scalar_type() == type) return x;
  if (x.scalar_type() != at::kFloat || type != at::kBFloat16 || !x.is_contiguous())
    return x.to(type);
  const Tensor y = at::empty(x.sizes(), type);
  const auto convert = kernels::row_kernels<Bf16>().from_floats;
  parallel_parts(size_t(x.numel()), 1 << 14, [&](size_t begin, size_t end, size_t) {
    convert(data<float>(x) + begin, end - begin, data<Bf16>(y) + begin);
  });
  return y;
}

double measure_gemm_flops(at::ScalarType type) {
  constexpr int64_t M = 1024, K = 1024, N = 3072;
  const Tensor a = at::ones({M, K}, type), b = at::ones({N, K}, type).t(),
               c = at::empty({M, N}, type);
  double best_s = 1e30;
  const Stopwatch all;
  for (int i = 0; i < 4 || all.seconds() < 0.3; ++i) {
    const Stopwatch one;
    gemm(a, b, c);
    best_s = std::min(best_s, one.seconds());
  }
  return 2.0 * M * K * N / best_s;
}

}  // namespace gigagpt::ops
