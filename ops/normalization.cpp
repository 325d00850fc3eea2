// Layer normalisation, GELU and dropout.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/trace.h"
#include "ops/dropout.h"
#include "ops/gelu.h"
#include "ops/gradient.h"
#include "ops/kernels/rows.h"
#include "ops/ops.h"
#include "ops/parallel.h"
#include "ops/pointers.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using kernels::row_kernels;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kEpsilon = 1e-5;           // layer_norm's default
constexpr size_t kLeastElements = 1 << 12;  // that are worth a thread's while

size_t least_rows(size_t C) {
  return std::max<size_t>(kLeastElements / C, 1);
}

// Returns the normal and x again: both ways' gradients meet in one pass.
struct LayerNorm : torch::autograd::Function<LayerNorm> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x_any, const Tensor& weight,
                               const c10::optional<Tensor>& bias, const Gradients& grads,
                               at::ScalarType out, double eps) {
    const Zone zone("layer norm forward");
    const Tensor x = x_any.contiguous();
    const size_t C = size_t(x.size(-1)), R = size_t(x.numel()) / C;
    const Tensor y = at::empty(x.sizes(), out);
    const Tensor stats = at::empty({int64_t(R), 2}, at::kFloat);  // mean, 1 / deviation
    auto* stat = reinterpret_cast<kernels::RowStats*>(data<float>(stats));
    const float* b = bias ? data<float>(*bias) : nullptr;
    dispatch_type(out, [&](auto element) {
      using T = decltype(element);
      const auto normalise = row_kernels<T>().layer_norm;
      parallel_parts(R, least_rows(C), [&](size_t begin, size_t end, size_t) {
        for (size_t r = begin; r < end; ++r) {
          stat[r] = normalise(data<float>(x) + r * C, data<float>(weight), b, C, float(eps),
                              data<T>(y) + r * C);
        }
      });
    });
    ctx->save_for_backward({x, weight, stats});
    ctx->saved_data["has_bias"] = bias.has_value();
    save(ctx, grads);
    return {y, x_any.detach()};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const Zone zone("layer norm backward");
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const auto* stat = reinterpret_cast<const kernels::RowStats*>(data<float>(saved[2]));
    const bool has_bias = ctx->saved_data["has_bias"].toBool();
    const Tensor dy = outputs[0].contiguous();
    const Tensor also = outputs[1].defined() ? outputs[1].contiguous() : Tensor();
    const size_t C = size_t(x.size(-1)), R = size_t(x.numel()) / C;
    const Tensor dx = at::empty(x.sizes(), at::kFloat);
    // A thread's rows add up apart, then the threads in order.
    std::vector<float> parts(size_t(thread_count()) * 2 * C);
    dispatch_type(dy, [&](auto element) {
      using T = decltype(element);
      const auto differentiate = row_kernels<T>().layer_norm_backward;
      parallel_parts(R, least_rows(C), [&](size_t begin, size_t end, size_t part) {
        float* dweight = parts.data() + part * 2 * C;
        for (size_t r = begin; r < end; ++r) {
          differentiate(data<float>(x) + r * C, data<float>(weight), stat[r], data<T>(dy) + r * C,
                        also.defined() ? data<float>(also) + r * C : nullptr, C,
                        data<float>(dx) + r * C, dweight, has_bias ? dweight + C : nullptr);
        }
      });
    });
    for (size_t i = 2 * C; i < parts.size(); ++i) parts[i % (2 * C)] += parts[i];
    const Tensor dweight = at::empty({int64_t(C)}, at::kFloat), dbias = at::empty_like(dweight);
    std::copy_n(parts.data(), C, data<float>(dweight));
    std::copy_n(parts.data() + C, C, data<float>(dbias));
    return {dx,
            deliver(ctx, 0, dweight),
            has_bias ? deliver(ctx, 1, dbias) : Tensor(),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

struct Gelu : torch::autograd::Function<Gelu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_any, GeluForm form) {
    const Tensor x = x_any.contiguous();
    ctx->save_for_backward({x});
    ctx->saved_data["form"] = static_cast<int64_t>(form);
    return apply_gelu(x, form);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto form = static_cast<GeluForm>(ctx->saved_data["form"].toInt());
    const Tensor dy = outputs[0].contiguous();
    return {differentiate_gelu(ctx->get_saved_variables()[0], dy, form, false).dx, Tensor()};
  }
};

struct Dropout : torch::autograd::Function<Dropout> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, double p, uint64_t key) {
    ctx->saved_data["p"] = p;
    ctx->saved_data["key"] = static_cast<int64_t>(key);
    return drop(x, p, key);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto key = static_cast<uint64_t>(ctx->saved_data["key"].toInt());
    return {drop(outputs[0], ctx->saved_data["p"].toDouble(), key), Tensor(), Tensor()};
  }
};

variable_list apply_layer_norm(const Tensor& x, const Affine& w, at::ScalarType out, double eps) {
  const auto bias = w.bias.defined() ? c10::optional<Tensor>(w.bias.value) : c10::nullopt;
  return LayerNorm::apply(x, w.weight.value, bias, Gradients{w.weight.grad, w.bias.grad}, out, eps);
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

GeluBackward differentiate_gelu(const Tensor& x, const Tensor& dy, GeluForm form, bool want_y) {
  const Zone zone("gelu backward");
  const GeluBackward result{at::empty(x.sizes(), x.options()),
                            want_y ? at::empty(x.sizes(), x.options()) : Tensor()};
  dispatch_type(x, [&](auto element) {
    using T = decltype(element);
    parallel_parts(size_t(x.numel()), kLeastElements, [&](size_t begin, size_t end, size_t) {
      T* y = want_y ? data<T>(result.y) + begin : nullptr;
      row_kernels<T>().gelu_backward[size_t(form)](data<T>(x) + begin, data<T>(dy) + begin,
                                                   end - begin, data<T>(result.dx) + begin, y);
    });
  });
  return result;
}

Tensor drop(const Tensor& x_any, double p, uint64_t key, int64_t first) {
  const Zone zone("dropout");
  const Tensor x = x_any.contiguous();
  Tensor y = at::empty(x.sizes(), x.options());
  const kernels::DropoutRule rule{p, key};
  dispatch_type(x, [&](auto element) {
    using T = decltype(element);
    parallel_parts(size_t(x.numel()), kLeastElements, [&](size_t begin, size_t end, size_t) {
      row_kernels<T>().dropout(data<T>(x) + begin, end - begin, rule, uint64_t(first) + begin,
                               data<T>(y) + begin);
    });
  });
  return y;
}

Branch branch(const Tensor& x, const Affine& w, at::ScalarType out) {
  const auto ways = apply_layer_norm(x, w, out, kEpsilon);
  return {ways[1], ways[0]};
}

Tensor layer_norm(const Tensor& x, const Affine& w, at::ScalarType out, double eps) {
  return apply_layer_norm(x, w, out, eps)[0];
}

Tensor gelu(const Tensor& x, GeluForm form) {
  return Gelu::apply(x, form);
}

Tensor dropout(const Tensor& x, double p, uint64_t key) {
  return p == 0.0 ? x : Dropout::apply(x, p, key);
}

}  // namespace gigagpt::ops
