// Linear layers, alone and as the end of a residual branch.
#include <ATen/ops/empty.h>

#include <tuple>

#include "base/trace.h"
#include "ops/autograd.h"
#include "ops/elementwise.h"
#include "ops/gemm.h"
#include "ops/gradient.h"
#include "ops/ops.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

// What is done around the product.
struct Fused {
  at::ScalarType out;
  c10::optional<GeluForm> gelu = {};  // of x, before it
  double dropout_p = 0.0;             // after it
  uint64_t key = 0;
};

// The weight's gradient dy_t [N, R] x rows [R, K], into its accumulator or for autograd.
Tensor weight_gradient(GradientSum* sum, const Tensor& dy_t, const Tensor& rows,
                       const Tensor& weight) {
  GradientSum* to = sum != nullptr ? &open_sum(*sum) : nullptr;
  // In fp32 a product on its own, added as a whole, has the bits that autograd would give.
  const bool first = to != nullptr && to->state == GradientSum::kEmpty;
  if (first || (to != nullptr && weight.scalar_type() == at::kBFloat16)) {
    padded_gemm(dy_t, rows, to->sum, {.add = !first, .read_late = true});
    to->state = GradientSum::kFilled;
    return {};
  }
  const Tensor dweight = at::empty(weight.sizes(), at::kFloat);  // N K
  padded_gemm(dy_t, rows, dweight);
  return deliver(to, dweight);
}

// What the backward pass needs of the forward pass.
struct Saved {
  Tensor rows;  // R K
  std::vector<int64_t> x_sizes;
  at::ScalarType x_type;
  bool x_wanted, has_residual;
};

std::vector<Tensor> differentiate(const Saved& saved, const Affine& w, const Fused& fused,
                                  const Tensor& dout) {
  const Tensor &rows = saved.rows, &weight = w.weight.value;
  const auto type = weight.scalar_type();
  Tensor dy = dout.contiguous().view({-1, weight.size(0)});  // R N
  if (w.weight.multiplier != 1.0) dy = dy.mul(w.weight.multiplier);
  if (fused.dropout_p > 0.0) dy = drop(dy, fused.dropout_p, fused.key);
  const double flops = 2.0 * double(rows.numel()) * double(weight.size(0));
  Tensor dx, input = rows;
  if (fused.gelu || saved.x_wanted) {
    dx = at::empty(rows.sizes(), fused.gelu ? type : saved.x_type);  // R K
    {
      const Zone zone("linear backward, input", flops);
      gemm(as_type(dy, type), weight, dx);
    }
    if (fused.gelu) {
      std::tie(dx, input) = differentiate_gelu(rows, dx, *fused.gelu);
      dx = as_type(dx, saved.x_type);
    }
    dx = dx.view(saved.x_sizes);
  }
  const Zone zone("linear backward, weight", flops);
  const Tensor dbias = w.bias.defined() ? at::empty({weight.size(0)}, at::kFloat) : Tensor();
  const Tensor dy_t = transposed(dy, type, dbias);  // N R
  const Tensor dweight = weight_gradient(w.weight.grad, dy_t, input, weight);
  return {dx, dweight, deliver(w.bias.grad, dbias), saved.has_residual ? dout : Tensor()};
}

// y = multiplier (f(x) weight^T + bias), or residual + dropout(that).
Tensor apply(const Tensor& x, const Affine& w, const Tensor& residual, const Fused& fused) {
  const Tensor& weight = w.weight.value;
  Recording recording({x, weight, w.bias.value, residual});
  const int64_t K = weight.size(1), N = weight.size(0);
  const Tensor rows = as_type(x.reshape({-1, K}), weight.scalar_type());  // R K
  const int64_t R = rows.size(0);
  auto sizes = x.sizes().vec();
  sizes.back() = N;
  const Tensor input = fused.gelu ? apply_gelu(rows, *fused.gelu) : rows;
  Tensor y = at::empty({R, N}, fused.out);
  // Whether the residual is added on the product's way to y.
  const bool is_added =
      fused.dropout_p == 0.0 && w.weight.multiplier == 1.0 && w.weight.mean_magnitude == nullptr;
  {
    const Zone zone("linear forward", 2.0 * double(R) * double(K) * double(N));
    GemmExtras extras{w.bias.value};
    if (residual.defined() && is_added) extras.residual = residual.reshape({R, N}).contiguous();
    gemm(input, weight.t(), y, extras);
  }
  if (w.weight.multiplier != 1.0) y.mul_(w.weight.multiplier);
  note_magnitude(w.weight, y);
  if (fused.dropout_p > 0.0) y = drop(y, fused.dropout_p, fused.key);
  if (residual.defined() && !is_added) y.add_(residual.reshape({R, N}));
  y = y.view(sizes);
  const Saved saved{rows, x.sizes().vec(), x.scalar_type(), x.requires_grad(), residual.defined()};
  recording.record(
      {y}, [=](const std::vector<Tensor>& dy) { return differentiate(saved, w, fused, dy[0]); });
  return y;
}

}  // namespace

Tensor linear(const Tensor& x, const Affine& w, c10::optional<at::ScalarType> out) {
  return apply(x, w, {}, {out.value_or(w.weight.value.scalar_type())});
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
