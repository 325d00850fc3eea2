#include "gpt/llama.h"

#include "gpt/model.h"
#include "ops/ops.h"

namespace gigagpt::llama {
namespace {

using at::Tensor;
using engine::LayerOf, engine::Pass, engine::Weights;

struct Embedding : LayerOf<EmbeddingParams> {
  using LayerOf::LayerOf;

  Tensor forward(const Weights& w, const Tensor& tokens, const Pass&) const override {
    return ops::embedding(tokens, w[embed_tokens]);  // B T C
  }
};

struct Block : LayerOf<BlockParams> {
  using LayerOf::LayerOf;
  const double epsilon = c.llama.norm_epsilon;

  Tensor forward(const Weights& w, const Tensor& x, const Pass& pass) const override {
    return ffn(w, attention(w, x, pass));  // B T C
  }

  Tensor attention(const Weights& w, const Tensor& x, const Pass& pass) const {
    const auto [residual, h] = ops::rms_branch(x, w[input_layernorm], w.dtype(), epsilon);  // B T C
    const auto heads = [&, &h = h](const AffineParam& projection) {
      return ops::linear(h, w[projection]).unflatten(2, {-1, D});
    };
    const auto placed = [&](const Tensor& y, const AffineParam& norm) {
      const Tensor n =
          c.llama.qk_norm ? ops::rms_norm(y.to(at::kFloat), w[norm], y.scalar_type(), epsilon) : y;
      return ops::rope(n, c.llama.rope, pass.batch.positions);
    };
    const Tensor q = placed(heads(q_proj), q_norm);  // B T H D
    const Tensor k = placed(heads(k_proj), k_norm);  // B T G D
    const Tensor v = heads(v_proj);                  // B T G D
    const Tensor y =
        ops::attention(q, k, v, pass.attention_rule(spec(), H), pass.memory);  // B T HD
    return ops::add_linear(residual, y, w[o_proj]);                            // B T C
  }

  Tensor ffn(const Weights& w, const Tensor& x) const {
    const auto [residual, h] =
        ops::rms_branch(x, w[post_attention_layernorm], w.dtype(), epsilon);            // B T C
    const Tensor gate = ops::linear(h, w[gate_proj]), up = ops::linear(h, w[up_proj]);  // B T F
    return ops::add_linear(residual, ops::silu_times(gate, up), w[down_proj]);          // B T C
  }
};

struct Head : LayerOf<HeadParams> {
  using LayerOf::LayerOf;

  Tensor forward(const Weights& w, const Tensor& x, const Pass& pass) const override {
    const Tensor last = pass.last_only ? x.narrow(1, x.size(1) - 1, 1) : x;
    const Tensor h = ops::rms_norm(last, w[final_norm], w.dtype(), c.llama.norm_epsilon);  // B T C
    const Tensor& labels = pass.batch.target;                                              // B T
    if (labels.defined()) return ops::cross_entropy(h, w[lm_head], labels);
    return ops::linear(h, {w[lm_head], {}}, at::kFloat);  // B T V
  }
};

}  // namespace
}  // namespace gigagpt::llama

gigagpt::engine::Model gigagpt::make_llama(const GPTConfig& config) {
  return engine::make_layers<llama::Embedding, llama::Block, llama::Head>(config, config.depth);
}
