// For tests only: a model quite unlike a GPT, to keep the engine from knowing one. A tied
// autoencoder on real-valued rows with layers of different shapes, plain ATen operations beside our
// own, noise from the pass's key, and a squared error instead of a cross-entropy.
#pragma once

#include <ATen/ATen.h>

#include "engine/model/layer.h"
#include "ops/ops.h"

namespace gigagpt::engine {

class Encoder : public Layer {
 public:
  Encoder(int64_t in, int64_t out)
      : Layer({"encoder", "", {{"tied.weight", {out, in}, 0, 0.3}, {"tied.bias", {out}, 0, 0.1}}}) {
  }
  at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass& pass) const override {
    const at::Tensor noisy = ops::dropout(x, pass.training ? 0.25 : 0.0, pass.key);
    return at::tanh(ops::linear(noisy, w.affine("tied"), at::kFloat));
  }
};

class Gate : public Layer {  // a gated residual; its parameters go through plain autograd
 public:
  Gate(int64_t width, int64_t index)
      : Layer({"gate",
               "gates." + std::to_string(index) + ".",
               {{"scale", {width}, 1, 0.1}, {"mix", {width, width}, 0, 0.2}}}) {}
  at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass&) const override {
    const at::Tensor mix = w["mix"].value.to(at::kFloat);
    return x + w["scale"].value * at::sigmoid((x.unsqueeze(-2) * mix).sum(-1));
  }
};

class Decoder : public Layer {
 public:
  explicit Decoder(int64_t out)
      : Layer({"decoder", "", {{"out.bias", {out}, 0, 0.1}}, {"tied.weight"}}) {}
  at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass& pass) const override {
    const at::Tensor tied = w["tied.weight"].value.to(at::kFloat);
    const at::Tensor y = (x.unsqueeze(-1) * tied).sum(-2) + w["out.bias"].value;
    return (y - pass.batch.target).square().mean();
  }
};

inline Model make_autoencoder(int64_t in, int64_t hidden, int64_t depth) {
  Model model;
  model.push_back(std::make_unique<Encoder>(in, hidden));
  for (int64_t i = 0; i < depth; ++i) model.push_back(std::make_unique<Gate>(hidden, i));
  model.push_back(std::make_unique<Decoder>(in));
  return model;
}

}  // namespace gigagpt::engine
