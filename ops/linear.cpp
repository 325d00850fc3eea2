// Linear layers, alone and as the end of a residual branch.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/trace.h"
#include "ops/dropout.h"
#include "ops/gelu.h"
#include "ops/gemm.h"
#include "ops/gradient.h"
#include "ops/ops.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What is done around the product.
struct Around {
  at::ScalarType out;
  c10::optional<GeluForm> gelu = {};  // of x, before it
  double dropout_p = 0.0;             // after it
  uint64_t key = 0;
};

// y = f(x) weight^T + bias, or residual + dropout(that).
struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const c10::optional<Tensor>& bias, const c10::optional<Tensor>& residual,
                        const Gradients& grads, const Around& around) {
    const int64_t K = weight.size(1), N = weight.size(0);
    const Tensor rows = as_type(x.reshape({-1, K}), weight.scalar_type());  // R K
    const int64_t R = rows.size(0);
    auto sizes = x.sizes().vec();
    sizes.back() = N;
    const Tensor input = around.gelu ? apply_gelu(rows, *around.gelu) : rows;
    Tensor y = at::empty({R, N}, around.out);
    {
      const Zone zone("linear forward", 2.0 * double(R) * double(K) * double(N));
      GemmExtras extras{bias.value_or(Tensor())};
      if (residual && around.dropout_p == 0.0)
        extras.residual = residual->reshape({R, N}).contiguous();
      gemm(input, weight.t(), y, extras);
    }
    if (residual && around.dropout_p > 0.0)
      y = drop(y, around.dropout_p, around.key).add_(residual->reshape({R, N}));
    ctx->save_for_backward({rows, weight});
    ctx->saved_data["x_dtype"] = static_cast<int64_t>(x.scalar_type());
    ctx->saved_data["x_sizes"] = x.sizes();
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->saved_data["has_residual"] = residual.has_value();
    if (around.gelu) ctx->saved_data["gelu"] = static_cast<int64_t>(*around.gelu);
    ctx->saved_data["dropout_p"] = around.dropout_p;
    ctx->saved_data["key"] = static_cast<int64_t>(around.key);
    save(ctx, grads);
    return y.view(sizes);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor& rows = saved[0];    // R K
    const Tensor& weight = saved[1];  // N K
    const auto type = weight.scalar_type();
    const double p = ctx->saved_data["dropout_p"].toDouble();
    const Tensor dresidual =
        ctx->saved_data["has_residual"].toBool() ? outputs[0] : Tensor();  // shaped like y
    Tensor dy = outputs[0].contiguous().view({-1, weight.size(0)});        // R N
    if (p > 0.0) dy = drop(dy, p, uint64_t(ctx->saved_data["key"].toInt()));
    const double flops = 2.0 * double(rows.numel()) * double(weight.size(0));
    const bool gelu = ctx->saved_data.count("gelu") > 0;
    Tensor dx, input = rows;
    if (gelu || ctx->needs_input_grad(0)) {
      const auto x_type = static_cast<at::ScalarType>(ctx->saved_data["x_dtype"].toInt());
      dx = at::empty(rows.sizes(), gelu ? type : x_type);  // R K
      {
        const Zone zone("linear backward, input", flops);
        gemm(as_type(dy, type), weight, dx);
      }
      if (gelu) {
        const auto form = static_cast<GeluForm>(ctx->saved_data["gelu"].toInt());
        const GeluBackward through = differentiate_gelu(rows, dx, form, /*want_y=*/true);
        dx = as_type(through.dx, x_type);
        input = through.y;
      }
      dx = dx.view(ctx->saved_data["x_sizes"].toIntVector());
    }
    const Zone zone("linear backward, weight", flops);
    const Tensor dbias =
        ctx->saved_data["has_bias"].toBool() ? at::empty({weight.size(0)}, at::kFloat) : Tensor();
    const Tensor dy_t = transposed(dy, type, dbias);  // N R
    const Tensor dweight = multiply_into(ctx, dy_t, input, weight);
    return {dx, dweight, deliver(ctx, 1, dbias), dresidual, Tensor(), Tensor()};
  }

  // The weight's gradient, into its accumulator or for autograd.
  static Tensor multiply_into(AutogradContext* ctx, const Tensor& dy_t, const Tensor& rows,
                              const Tensor& weight) {
    GradientSum* to = gradient_sum(ctx, 0);
    // In fp32 a product on its own, added as a whole, has the bits that autograd would give.
    const bool first = to != nullptr && to->state == GradientSum::kEmpty;
    if (first || (to != nullptr && weight.scalar_type() == at::kBFloat16)) {
      gemm(dy_t, GemmOperand(rows), to->sum, {.add = !first, .read_late = true});
      to->state = GradientSum::kFilled;
      return {};
    }
    const Tensor dweight = at::empty(weight.sizes(), at::kFloat);  // N K
    gemm(dy_t, GemmOperand(rows), dweight);
    return deliver(ctx, 0, dweight);
  }
};

Tensor apply(const Tensor& x, const Affine& w, const c10::optional<Tensor>& residual,
             const Around& around) {
  const auto bias = w.bias.defined() ? c10::optional<Tensor>(w.bias.value) : c10::nullopt;
  return Linear::apply(x, w.weight.value, bias, residual, Gradients{w.weight.grad, w.bias.grad},
                       around);
}

}  // namespace

Tensor linear(const Tensor& x, const Affine& w, c10::optional<at::ScalarType> out) {
  return apply(x, w, c10::nullopt, {out.value_or(w.weight.value.scalar_type())});
}

Tensor add_linear(const Tensor& residual, const Tensor& x, const Affine& w, double dropout_p,
                  uint64_t key) {
  return apply(x, w, residual, {at::kFloat, c10::nullopt, dropout_p, key});
}

Tensor add_gelu_linear(const Tensor& residual, const Tensor& x, const Affine& w, GeluForm form,
                       double dropout_p, uint64_t key) {
  return apply(x, w, residual, {at::kFloat, form, dropout_p, key});
}

}  // namespace gigagpt::ops
