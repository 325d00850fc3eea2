// Products with weights: linear layers and plain differentiable matrix products.
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
    const Tensor dy_any = outputs[0].reshape({-1, weight.size(0)});
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

struct Matmul : torch::autograd::Function<Matmul> {
  static Tensor forward(AutogradContext* ctx, const Tensor& a, const Tensor& b,
                        at::ScalarType out) {
    auto sizes = a.sizes().vec();
    sizes.back() = b.size(-1);
    Tensor c = at::empty(sizes, out);
    gemm(a, b, c);
    ctx->save_for_backward({a, b});
    return c;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor dc = outputs[0].to(saved[0].scalar_type()).contiguous();
    const Tensor da = at::empty(saved[0].sizes(), saved[0].options());
    const Tensor db = at::empty(saved[1].sizes(), saved[1].options());
    gemm(dc, saved[1].transpose(-1, -2), da);
    gemm(saved[0].transpose(-1, -2), dc, db);
    return {da, db, Tensor()};
  }
};

}  // namespace

Tensor linear(const Tensor& x, const Affine& w, c10::optional<at::ScalarType> out) {
  const auto bias = w.bias.defined() ? c10::optional<Tensor>(w.bias.value) : c10::nullopt;
  return Linear::apply(x, w.weight.value, bias, Gradients{{w.weight.grad, w.bias.grad}},
                       out.value_or(w.weight.value.scalar_type()));
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads,
                 const Tensor& mask, double dropout_p, uint64_t key) {
  const auto split = [&](const Tensor& x) {  // B T C -> B H T D
    return x.view({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
  };
  const int64_t Tq = q.size(1);
  const int64_t Tk = k.size(1);
  const double scale = 1.0 / std::sqrt(double(q.size(2)) / double(heads));
  const Tensor keys = split(k).transpose(-1, -2);                     // B H D Tk
  Tensor scores = Matmul::apply(split(q), keys, at::kFloat) * scale;  // B H Tq Tk
  if (mask.defined()) {
    scores = scores + mask;
  } else if (Tq > 1) {
    const Tensor causal = at::ones({Tq, Tk}, at::kBool).triu(1 + Tk - Tq);  // Tq Tk
    scores = scores.masked_fill(causal, -std::numeric_limits<float>::infinity());
  }
  const Tensor p = dropout(at::softmax(scores, -1), dropout_p, key);  // B H Tq Tk
  const Tensor y = Matmul::apply(p.to(v.scalar_type()), split(v), v.scalar_type());
  return y.transpose(1, 2).reshape(q.sizes());  // B T C
}

}  // namespace gigagpt::ops
