#include "gpt/model.h"

#include "base/random.h"
#include "ops/ops.h"

namespace gigagpt {
namespace {

using at::Tensor;
using engine::Pass;
using engine::Weights;

enum Site : uint64_t { kOutput, kAttention };  // places of dropout within a layer

// Its weights go by the names in GPTConfig::layers().
class GPTLayer : public engine::Layer {
 public:
  GPTLayer(const GPTConfig& c, engine::LayerSpec spec) : Layer(std::move(spec)), config_(c) {}

 protected:
  double dropout(const Pass& pass) const { return pass.training ? config_.dropout : 0.0; }
  uint64_t key(const Pass& pass, Site site) const {
    return mix(mix(pass.key, hash_name(spec().name)), site);
  }
  const GPTConfig config_;
};

class Embedding : public GPTLayer {
 public:
  using GPTLayer::GPTLayer;

  Tensor forward(const Weights& w, const Tensor& tokens, const Pass& pass) const override {
    const Tensor x = ops::embedding(tokens, w["wte.weight"], w["wpe.weight"], pass.position);
    return ops::dropout(x, dropout(pass), key(pass, kOutput));  // B T C
  }
};

class Block : public GPTLayer {
 public:
  using GPTLayer::GPTLayer;

  Tensor forward(const Weights& w, const Tensor& x, const Pass& pass) const override {
    return ffn(w, attention(w, x, pass), pass);  // B T C
  }

 private:
  Tensor attention(const Weights& w, const Tensor& x, const Pass& pass) const {
    const auto [residual, h] = ops::branch(x, w.affine("ln_1"), w.dtype());  // B T C
    const Tensor qkv = ops::linear(h, w.affine("attn.proj_qkv"));            // B T 3C
    const ops::AttentionRule rule{config_.heads, pass.batch.mask, dropout(pass),
                                  key(pass, kAttention)};
    const Tensor y = ops::attention(qkv, rule, pass.cache);             // B T C
    return ops::add_linear(residual, y, w.affine("attn.proj_output"));  // B T C
  }

  Tensor ffn(const Weights& w, const Tensor& x, const Pass& pass) const {
    const auto [residual, n] = ops::branch(x, w.affine("ln_2"), w.dtype());  // B T C
    const Tensor h = ops::linear(n, w.affine("ffn.fc"));                     // B T 4C
    const auto form = config_.activation == "gelu" ? ops::GeluForm::kErf : ops::GeluForm::kTanh;
    return ops::add_gelu_linear(residual, h, w.affine("ffn.proj"), form, dropout(pass),
                                key(pass, kOutput));
  }
};

class Head : public GPTLayer {
 public:
  using GPTLayer::GPTLayer;

  Tensor forward(const Weights& w, const Tensor& x_all, const Pass& pass) const override {
    // Sampling needs the last position alone.
    const Tensor x = pass.cache == nullptr ? x_all : x_all.narrow(1, x_all.size(1) - 1, 1);
    const Tensor h = ops::layer_norm(x, w.affine("ln_f"), w.dtype());  // B T C
    const Tensor& labels = pass.batch.target;                          // B T
    if (labels.defined()) return ops::cross_entropy(h, w["wte.weight"], labels);
    return ops::linear(h, w.affine("wte"), at::kFloat);  // B T V: tied lm_head
  }
};

}  // namespace

engine::Model make_model(const GPTConfig& config) {
  auto specs = config.layers();
  engine::Model model;
  model.push_back(std::make_unique<Embedding>(config, specs.front()));
  for (size_t i = 1; i + 1 < specs.size(); ++i)
    model.push_back(std::make_unique<Block>(config, specs[i]));
  model.push_back(std::make_unique<Head>(config, specs.back()));
  return model;
}

engine::Runtime make_gpt(const GPTConfig& c, bool training, const engine::System& system,
                         const std::optional<engine::ResumePoint>& from) {
  return engine::Runtime(make_model(c), formats::hf_gpt2_tensors(c.hf()), c.precision,
                         c.run_size(training), c.storage, c.out_dir, system, from);
}

}  // namespace gigagpt
