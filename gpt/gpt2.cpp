#include "gpt/gpt2.h"

#include "gpt/model.h"
#include "ops/ops.h"

namespace gigagpt::gpt2 {
namespace {

using at::Tensor;
using engine::LayerOf, engine::Pass, engine::Weights;

enum Site : uint64_t { kOutput, kAttention };  // places of dropout within a layer

struct Embedding : LayerOf<EmbeddingParams> {
  using LayerOf::LayerOf;

  Tensor forward(const Weights& w, const Tensor& tokens, const Pass& pass) const override {
    const Tensor x = ops::embedding(tokens, w[wte], w[wpe], pass.batch.positions);
    return ops::dropout(x, pass.dropout(c.dropout), pass.key_of(spec(), kOutput));  // B T C
  }
};

struct Block : LayerOf<BlockParams> {
  using LayerOf::LayerOf;

  Tensor forward(const Weights& w, const Tensor& x, const Pass& pass) const override {
    return ffn(w, attention(w, x, pass), pass);  // B T C
  }

  Tensor attention(const Weights& w, const Tensor& x, const Pass& pass) const {
    const auto [residual, h] = ops::branch(x, w[ln_1], w.dtype());  // B T C
    const Tensor qkv = ops::linear(h, w[proj_qkv]);                 // B T 3C
    const auto rule = pass.attention_rule(spec(), c.heads, pass.dropout(c.dropout), kAttention);
    const Tensor y = ops::attention(qkv, rule, pass.memory);  // B T C
    return ops::add_linear(residual, y, w[proj_output]);      // B T C
  }

  Tensor ffn(const Weights& w, const Tensor& x, const Pass& pass) const {
    const auto [residual, n] = ops::branch(x, w[ln_2], w.dtype());  // B T C
    const Tensor h = ops::linear(n, w[fc]);                         // B T 4C
    const auto form = c.activation == "gelu" ? ops::GeluForm::kErf : ops::GeluForm::kTanh;
    return ops::add_gelu_linear(residual, h, w[proj], form, pass.dropout(c.dropout),
                                pass.key_of(spec(), kOutput));
  }
};

struct Head : LayerOf<HeadParams> {
  using LayerOf::LayerOf;

  Tensor forward(const Weights& w, const Tensor& x, const Pass& pass) const override {
    const Tensor last = pass.last_only ? x.narrow(1, x.size(1) - 1, 1) : x;
    const Tensor h = ops::layer_norm(last, w[ln_f], w.dtype());  // B T C
    const Tensor& labels = pass.batch.target;                    // B T
    if (labels.defined()) return ops::cross_entropy(h, w[wte], labels);
    return ops::linear(h, {w[wte], {}}, at::kFloat);  // B T V: tied lm_head
  }
};

}  // namespace
}  // namespace gigagpt::gpt2

gigagpt::engine::Model gigagpt::make_gpt2(const GPTConfig& config) {
  return engine::make_layers<gpt2::Embedding, gpt2::Block, gpt2::Head>(config, config.depth);
}
