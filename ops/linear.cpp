// Linear layers.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/gemm.h"
#include "ops/gradient.h"
#include "ops/ops.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const c10::optional<Tensor>& bias, const Gradients& grads,
                        at::ScalarType out) {
    const Tensor rows = x.reshape({-1, x.size(-1)}).to(weight.scalar_type());  // R K
    Tensor y = at::empty({rows.size(0), weight.size(0)}, out);                 // R N
    gemm(rows, weight.t(), y, bias.value_or(Tensor()));
    ctx->save_for_backward({rows, weight});
    ctx->saved_data["x_dtype"] = static_cast<int64_t>(x.scalar_type());
    ctx->saved_data["x_sizes"] = x.sizes();
    ctx->saved_data["has_bias"] = bias.has_value();
    save(ctx, grads);
    auto sizes = x.sizes().vec();
    sizes.back() = weight.size(0);
    return y.view(sizes);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor& rows = saved[0];    // R K
    const Tensor& weight = saved[1];  // N K
    const Tensor dy_any = outputs[0].contiguous().view({-1, weight.size(0)});
    const Tensor dy = dy_any.to(weight.scalar_type());  // R N
    Tensor dx, dbias;
    if (ctx->needs_input_grad(0)) {
      const auto dtype = static_cast<at::ScalarType>(ctx->saved_data["x_dtype"].toInt());
      dx = at::empty(rows.sizes(), dtype);  // R K
      gemm(dy, weight, dx);
      dx = dx.view(ctx->saved_data["x_sizes"].toIntVector());
    }
    Tensor dweight = at::empty(weight.sizes(), at::kFloat);  // N K
    gemm(dy.t(), rows, dweight);
    if (ctx->saved_data["has_bias"].toBool()) dbias = dy_any.sum({0}, false, at::kFloat);
    return {dx, deliver(ctx, 0, dweight), deliver(ctx, 1, dbias), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor linear(const Tensor& x, const Affine& w, c10::optional<at::ScalarType> out) {
  const auto bias = w.bias.defined() ? c10::optional<Tensor>(w.bias.value) : c10::nullopt;
  return Linear::apply(x, w.weight.value, bias, Gradients{{w.weight.grad, w.bias.grad}},
                       out.value_or(w.weight.value.scalar_type()));
}

}  // namespace gigagpt::ops
