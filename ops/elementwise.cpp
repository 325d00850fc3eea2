// Layer normalisation, GELU, dropout and the loss.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/random.h"
#include "ops/dropout.h"
#include "ops/gemm.h"
#include "ops/gradient.h"
#include "ops/ops.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LayerNorm : torch::autograd::Function<LayerNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, const Gradients& grads, double eps) {
    const auto [y, mean, rstd] = at::native_layer_norm(x, {x.size(-1)}, weight, bias, eps);
    ctx->save_for_backward({x, weight, bias, mean, rstd});
    save(ctx, grads);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor& x = saved[0];
    const auto [dx, dweight, dbias] =
        at::native_layer_norm_backward(outputs[0].to(at::kFloat).contiguous(), x, {x.size(-1)},
                                       saved[3], saved[4], saved[1], saved[2], {true, true, true});
    return {dx, deliver(ctx, 0, dweight), deliver(ctx, 1, dbias), Tensor(), Tensor()};
  }
};

template <class T>
void drop_elements(const Tensor& x, const Tensor& y, double p, uint64_t key, int64_t first) {
  const auto threshold = static_cast<uint32_t>(p * 0x1p32);
  const float scale = static_cast<float>(1.0 / (1.0 - p));
  const T* from = x.data_ptr<T>();
  T* to = y.data_ptr<T>();
  const int64_t end = first + x.numel();
  at::parallel_for(first / 4, (end + 3) / 4, 4096, [&](int64_t begin_four, int64_t end_four) {
    for (int64_t four = begin_four; four < end_four; ++four) {
      const auto bits = philox(key, static_cast<uint64_t>(four));
      for (int64_t i = std::max(first, 4 * four); i < std::min(end, 4 * four + 4); ++i) {
        const bool kept = bits[size_t(i % 4)] >= threshold;
        to[i - first] = static_cast<T>(kept ? static_cast<float>(from[i - first]) * scale : 0.0F);
      }
    }
  });
}

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

}  // namespace

Tensor drop(const Tensor& x_any, double p, uint64_t key, int64_t first) {
  const Tensor x = x_any.contiguous();
  Tensor y = at::empty_like(x);
  if (x.scalar_type() == at::kFloat)
    drop_elements<float>(x, y, p, key, first);
  else
    drop_elements<at::BFloat16>(x, y, p, key, first);
  return y;
}

Tensor layer_norm(const Tensor& x, const Affine& w, double eps) {
  return LayerNorm::apply(x, w.weight.value, w.bias.value, Gradients{{w.weight.grad, w.bias.grad}},
                          eps);
}

Tensor gelu(const Tensor& x) {
  // ATen hands bf16 to oneDNN, which does not take it everywhere.
  if (x.scalar_type() == at::kFloat || onednn_has_bf16()) return at::gelu(x);
  return at::gelu(x.to(at::kFloat)).to(x.scalar_type());
}

Tensor dropout(const Tensor& x, double p, uint64_t key) {
  return p == 0.0 ? x : Dropout::apply(x, p, key);
}

Tensor cross_entropy(const Tensor& logits, const Tensor& labels) {
  return at::cross_entropy_loss(logits, labels);
}

}  // namespace gigagpt::ops
