// For tests only: a model quite unlike a GPT, to keep the engine from knowing one. A tied
// autoencoder on real-valued rows with layers of different shapes, plain ATen operations beside our
// own, noise from the pass's key, and a squared error instead of a cross-entropy.
#pragma once

#include <ATen/ATen.h>

#include "engine/model/layer.h"
#include "ops/ops.h"

namespace gigagpt::engine {

class Encoder : public LayerOf<Declaration> {
 public:
  Encoder(int64_t in, int64_t out)
      : LayerOf({"encoder", "", {}}),
        weight_(add("tied.weight", {out, in}, {.init = normal(0.3)})),
        bias_(add("tied.bias", {out}, {.init = normal(0.1)})) {}
  at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass& pass) const override {
    const at::Tensor noisy = ops::dropout(x, pass.training ? 0.25 : 0.0, pass.key);
    return at::tanh(ops::linear(noisy, w[AffineParam{weight_, bias_}], at::kFloat));
  }

 private:
  Param weight_, bias_;
};

class Gate : public LayerOf<Declaration> {  // gated residual; gradients through plain autograd
 public:
  Gate(int64_t width, int64_t index)
      : LayerOf({"gate", "gates." + std::to_string(index) + ".", {}}),
        scale_(add("scale", {width}, {.init = Init{1, 0.1}})),
        mix_(add("mix", {width, width}, {.init = normal(0.2)})) {}
  at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass&) const override {
    const at::Tensor mix = w[mix_].value.to(at::kFloat);
    return x + w[scale_].value * at::sigmoid((x.unsqueeze(-2) * mix).sum(-1));
  }

 private:
  Param scale_, mix_;
};

class Decoder : public LayerOf<Declaration> {
 public:
  explicit Decoder(int64_t out)
      : LayerOf({"decoder", "", {}}),
        bias_(add("out.bias", {out}, {.init = normal(0.1)})),
        tied_(share("tied.weight")) {}
  at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass& pass) const override {
    const at::Tensor tied = w[tied_].value.to(at::kFloat);
    const at::Tensor y = (x.unsqueeze(-1) * tied).sum(-2) + w[bias_].value;
    return (y - pass.batch.target).square().mean();
  }

 private:
  Param bias_, tied_;
};

inline Model make_autoencoder(int64_t in, int64_t hidden, int64_t depth) {
  Model model;
  model.push_back(std::make_unique<Encoder>(in, hidden));
  for (int64_t i = 0; i < depth; ++i) model.push_back(std::make_unique<Gate>(hidden, i));
  model.push_back(std::make_unique<Decoder>(in));
  return model;
}

}  // namespace gigagpt::engine
