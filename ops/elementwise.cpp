// Layer normalisation, GELU, dropout and the loss.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/random.h"
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

// y = x * kept / (1 - p), in fp32 and rounded to the dtype of x.
template <class T>
void drop(const Tensor& x, const Tensor& y, double p, uint64_t key) {
  const auto threshold = static_cast<uint32_t>(p * 0x1p32);
  const float scale = static_cast<float>(1.0 / (1.0 - p));
  const T* from = x.data_ptr<T>();
  T* to = y.data_ptr<T>();
  const int64_t count = x.numel();
  at::parallel_for(0, (count + 3) / 4, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t four = begin; four < end; ++four) {
      const auto bits = philox(key, static_cast<uint64_t>(four));
      for (int64_t i = 4 * four; i < std::min(count, 4 * four + 4); ++i) {
        const bool kept = bits[size_t(i % 4)] >= threshold;
        to[i] = static_cast<T>(kept ? static_cast<float>(from[i]) * scale : 0.0F);
      }
    }
  });
}

Tensor dropped(const Tensor& x_any, double p, uint64_t key) {
  const Tensor x = x_any.contiguous();
  Tensor y = at::empty_like(x);
  if (x.scalar_type() == at::kFloat)
    drop<float>(x, y, p, key);
  else
    drop<at::BFloat16>(x, y, p, key);
  return y;
}

struct Dropout : torch::autograd::Function<Dropout> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, double p, uint64_t key) {
    ctx->saved_data["p"] = p;
    ctx->saved_data["key"] = static_cast<int64_t>(key);
    return dropped(x, p, key);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto key = static_cast<uint64_t>(ctx->saved_data["key"].toInt());
    return {dropped(outputs[0], ctx->saved_data["p"].toDouble(), key), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor layer_norm(const Tensor& x, const Affine& w, double eps) {
  return LayerNorm::apply(x, w.weight.value, w.bias.value, Gradients{{w.weight.grad, w.bias.grad}},
                          eps);
}

Tensor gelu(const Tensor& x) {
  return at::gelu(x);
}

Tensor dropout(const Tensor& x, double p, uint64_t key) {
  return p == 0.0 ? x : Dropout::apply(x, p, key);
}

Tensor cross_entropy(const Tensor& logits, const Tensor& labels) {
  return at::cross_entropy_loss(logits, labels);
}

}  // namespace gigagpt::ops
