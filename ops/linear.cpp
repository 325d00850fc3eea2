// Linear layers, alone and as the end of a residual branch.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/trace.h"
#include "ops/dropout.h"
#include "ops/gemm.h"
#include "ops/gradient.h"
#include "ops/ops.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// y = x weight^T + bias, or residual + dropout(that).
struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const c10::optional<Tensor>& bias, const c10::optional<Tensor>& residual,
                        const Gradients& grads, at::ScalarType out, double dropout_p,
                        uint64_t key) {
    const int64_t K = weight.size(1), N = weight.size(0);
    const Tensor rows = as_type(x.reshape({-1, K}), weight.scalar_type());  // R K
    const int64_t R = rows.size(0);
    auto sizes = x.sizes().vec();
    sizes.back() = N;
    Tensor y = at::empty({R, N}, out);
    {
      const Zone zone("linear forward", 2.0 * double(R) * double(K) * double(N));
      GemmExtras extras{bias.value_or(Tensor())};
      if (residual && dropout_p == 0.0) extras.residual = residual->view({R, N});
      gemm(rows, weight.t(), y, extras);
    }
    if (residual && dropout_p > 0.0) y = drop(y, dropout_p, key).add_(residual->view({R, N}));
    ctx->save_for_backward({rows, weight});
    ctx->saved_data["x_dtype"] = static_cast<int64_t>(x.scalar_type());
    ctx->saved_data["x_sizes"] = x.sizes();
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->saved_data["has_residual"] = residual.has_value();
    ctx->saved_data["dropout_p"] = dropout_p;
    ctx->saved_data["key"] = static_cast<int64_t>(key);
    save(ctx, grads);
    return y.view(sizes);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor& rows = saved[0];    // R K
    const Tensor& weight = saved[1];  // N K
    const double p = ctx->saved_data["dropout_p"].toDouble();
    const Tensor dresidual =
        ctx->saved_data["has_residual"].toBool() ? outputs[0] : Tensor();  // shaped like y
    Tensor dy = outputs[0].contiguous().view({-1, weight.size(0)});        // R N
    if (p > 0.0) dy = drop(dy, p, uint64_t(ctx->saved_data["key"].toInt()));
    const double flops = 2.0 * double(rows.numel()) * double(weight.size(0));
    const Tensor dbias =
        ctx->saved_data["has_bias"].toBool() ? at::empty({weight.size(0)}, at::kFloat) : Tensor();
    Tensor dx, dweight;
    {
      const Zone zone("linear backward, weight", flops);
      const Tensor dy_t = transposed(dy, weight.scalar_type(), dbias);  // N R
      dweight = multiply_into(ctx, dy_t, rows, weight);
    }
    if (ctx->needs_input_grad(0)) {
      const Zone zone("linear backward, input", flops);
      const auto dtype = static_cast<at::ScalarType>(ctx->saved_data["x_dtype"].toInt());
      dx = at::empty(rows.sizes(), dtype);  // R K
      gemm(as_type(dy, weight.scalar_type()), weight, dx);
      dx = dx.view(ctx->saved_data["x_sizes"].toIntVector());
    }
    return {dx, dweight, deliver(ctx, 1, dbias), dresidual, Tensor(), Tensor(), Tensor(), Tensor()};
  }

  // The weight's gradient, into its accumulator or for autograd.
  static Tensor multiply_into(AutogradContext* ctx, const Tensor& dy_t, const Tensor& rows,
                              const Tensor& weight) {
    GradientSum* to = gradient_sum(ctx, 0);
    // In fp32 a product on its own, added as a whole, has the bits that autograd would give.
    const bool first = to != nullptr && to->state == GradientSum::kEmpty;
    if (first || (to != nullptr && weight.scalar_type() == at::kBFloat16)) {
      gemm(dy_t, GemmOperand(rows), to->sum, {.add = !first});
      to->state = GradientSum::kFilled;
      return {};
    }
    const Tensor dweight = at::empty(weight.sizes(), at::kFloat);  // N K
    gemm(dy_t, GemmOperand(rows), dweight);
    return deliver(ctx, 0, dweight);
  }
};

c10::optional<Tensor> if_defined(const Tensor& x) {
  return x.defined() ? c10::optional<Tensor>(x) : c10::nullopt;
}

}  // namespace

Tensor linear(const Tensor& x, const Affine& w, c10::optional<at::ScalarType> out) {
  return Linear::apply(x, w.weight.value, if_defined(w.bias.value), c10::nullopt,
                       Gradients{w.weight.grad, w.bias.grad},
                       out.value_or(w.weight.value.scalar_type()), 0.0, uint64_t{0});
}

Tensor add_linear(const Tensor& residual, const Tensor& x, const Affine& w, double dropout_p,
                  uint64_t key) {
  return Linear::apply(x, w.weight.value, if_defined(w.bias.value), c10::optional<Tensor>(residual),
                       Gradients{w.weight.grad, w.bias.grad}, at::kFloat, dropout_p, key);
}

}  // namespace gigagpt::ops
