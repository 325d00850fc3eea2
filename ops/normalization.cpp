// Normalisation, GELU, gates and dropout.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include "base/trace.h"
#include "ops/autograd.h"
#include "ops/elementwise.h"
#include "ops/gradient.h"
#include "ops/kernels/rows.h"
#include "ops/ops.h"
#include "ops/parallel.h"
#include "ops/pointers.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using kernels::NormForm;
using kernels::row_kernels;

constexpr size_t kLeastElements = 1 << 12;  // that are worth a thread's while

size_t least_rows(size_t C) {
  return std::max<size_t>(kLeastElements / C, 1);
}

std::vector<Tensor> differentiate_norm(NormForm form, const Tensor& x, const Affine& w,
                                       const Tensor& stats, const Tensor& dy_any,
                                       const Tensor& also_any) {
  const Zone zone("norm backward");
  const bool has_bias = w.bias.defined();
  const Tensor dy = dy_any.defined() ? dy_any.contiguous() : at::zeros_like(x);
  const Tensor also = also_any.defined() ? also_any.contiguous() : Tensor();
  const size_t C = size_t(x.size(-1)), R = size_t(x.numel()) / C;
  const Tensor dx = at::empty(x.sizes(), at::kFloat);
  // A thread's rows add up apart, then the threads in order.
  std::vector<float> parts(size_t(thread_count()) * 2 * C);
  dispatch_type(dy, [&](auto element) {
    using T = decltype(element);
    const auto differentiate = row_kernels<T>().norm_backward[size_t(form)];
    parallel_parts(R, least_rows(C), [&](size_t begin, size_t end, size_t part) {
      float* dweight = parts.data() + part * 2 * C;
      for (size_t r = begin; r < end; ++r) {
        differentiate(data<float>(x) + r * C, data<float>(w.weight.value),
                      data<float>(stats) + 2 * r, data<T>(dy) + r * C,
                      also.defined() ? data<float>(also) + r * C : nullptr, C,
                      data<float>(dx) + r * C, dweight, has_bias ? dweight + C : nullptr);
      }
    });
  });
  for (size_t i = 2 * C; i < parts.size(); ++i) parts[i % (2 * C)] += parts[i];
  const Tensor dweight = at::empty({int64_t(C)}, at::kFloat), dbias = at::empty_like(dweight);
  std::copy_n(parts.data(), C, data<float>(dweight));
  std::copy_n(parts.data() + C, C, data<float>(dbias));
  return {dx, deliver(w.weight.grad, dweight), has_bias ? deliver(w.bias.grad, dbias) : Tensor()};
}

// The normal, and x again: what comes back on both ways is added in one pass.
Branch apply_norm(NormForm form, const Tensor& x_any, const Affine& w, at::ScalarType out,
                  double eps) {
  const Zone zone("norm forward");
  Recording recording({x_any, w.weight.value, w.bias.value});
  const Tensor x = x_any.contiguous();
  const size_t C = size_t(x.size(-1)), R = size_t(x.numel()) / C;
  const Tensor y = at::empty(x.sizes(), out);
  const Tensor stats = at::empty({int64_t(R), 2}, at::kFloat);  // mean, 1 / standard deviation
  const float* b = w.bias.defined() ? data<float>(w.bias.value) : nullptr;
  dispatch_type(out, [&](auto element) {
    using T = decltype(element);
    const auto normalise = row_kernels<T>().norm[size_t(form)];
    parallel_parts(R, least_rows(C), [&](size_t begin, size_t end, size_t) {
      for (size_t r = begin; r < end; ++r) {
        normalise(data<float>(x) + r * C, data<float>(w.weight.value), b, C, float(eps),
                  data<T>(y) + r * C, data<float>(stats) + 2 * r);
      }
    });
  });
  const Branch branch{x_any.detach(), y};
  recording.record({branch.normal, branch.residual}, [=](const std::vector<Tensor>& dy) {
    return differentiate_norm(form, x, w, stats, dy[0], dy[1]);
  });
  return branch;
}

}  // namespace

Tensor apply_gelu(const Tensor& x, GeluForm form) {
  const Zone zone("gelu forward");
  Tensor y = at::empty(x.sizes(), x.options());
  dispatch_type(x, [&](auto element) {
    using T = decltype(element);
    parallel_parts(size_t(x.numel()), kLeastElements, [&](size_t begin, size_t end, size_t) {
      row_kernels<T>().gelu[size_t(form)](data<T>(x) + begin, end - begin, data<T>(y) + begin);
    });
  });
  return y;
}

std::pair<Tensor, Tensor> differentiate_gelu(const Tensor& x, const Tensor& dy, GeluForm form) {
  const Zone zone("gelu backward");
  const Tensor dx = at::empty(x.sizes(), x.options()), y = at::empty_like(dx);
  dispatch_type(x, [&](auto element) {
    using T = decltype(element);
    parallel_parts(size_t(x.numel()), kLeastElements, [&](size_t begin, size_t end, size_t) {
      row_kernels<T>().gelu_backward[size_t(form)](data<T>(x) + begin, data<T>(dy) + begin,
                                                   end - begin, data<T>(dx) + begin,
                                                   data<T>(y) + begin);
    });
  });
  return {dx, y};
}

Tensor drop(const Tensor& x_any, double p, uint64_t key) {
  const Zone zone("dropout");
  const Tensor x = x_any.contiguous();
  Tensor y = at::empty(x.sizes(), x.options());
  dispatch_type(x, [&](auto element) {
    using T = decltype(element);
    parallel_parts(size_t(x.numel()), kLeastElements, [&](size_t begin, size_t end, size_t) {
      row_kernels<T>().dropout(data<T>(x) + begin, end - begin, p, key, begin, data<T>(y) + begin);
    });
  });
  return y;
}

Branch branch(const Tensor& x, const Affine& w, at::ScalarType out, double eps) {
  return apply_norm(NormForm::kLayer, x, w, out, eps);
}

Branch rms_branch(const Tensor& x, const Affine& w, at::ScalarType out, double eps) {
  return apply_norm(NormForm::kRms, x, w, out, eps);
}

Tensor layer_norm(const Tensor& x, const Affine& w, at::ScalarType out, double eps) {
  return branch(x, w, out, eps).normal;
}

Tensor rms_norm(const Tensor& x, const Affine& w, at::ScalarType out, double eps) {
  return rms_branch(x, w, out, eps).normal;
}

Tensor silu_times(const Tensor& x_any, const Tensor& u_any) {
  const Zone zone("silu forward");
  Recording recording({x_any, u_any});
  const Tensor x = x_any.contiguous(), u = u_any.contiguous(),
               y = at::empty(x.sizes(), x.options());
  dispatch_type(x, [&](auto element) {
    using T = decltype(element);
    parallel_parts(size_t(x.numel()), kLeastElements, [&](size_t i, size_t end, size_t) {
      row_kernels<T>().silu_times(data<T>(x) + i, data<T>(u) + i, end - i, data<T>(y) + i);
    });
  });
  recording.record({y}, [=](const std::vector<Tensor>& gradients) {
    const Zone zone("silu backward");
    const Tensor dy = gradients[0].contiguous(), dx = at::empty_like(x), du = at::empty_like(u);
    dispatch_type(x, [&](auto element) {
      using T = decltype(element);
      parallel_parts(size_t(x.numel()), kLeastElements, [&](size_t i, size_t end, size_t) {
        row_kernels<T>().silu_times_backward(data<T>(x) + i, data<T>(u) + i, data<T>(dy) + i,
                                             end - i, data<T>(dx) + i, data<T>(du) + i);
      });
    });
    return std::vector{dx, du};
  });
  return y;
}

Tensor dropout(const Tensor& x, double p, uint64_t key) {
  if (p == 0.0) return x;
  Recording recording({x});
  const Tensor y = drop(x, p, key);
  recording.record({y},
                   [=](const std::vector<Tensor>& dy) { return std::vector{drop(dy[0], p, key)}; });
  return y;
}

}  // namespace gigagpt::ops
