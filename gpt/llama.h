// Llama and its kin (Touvron et al. 2023): rotary positions, RMS norms, SwiGLU, and heads of
// queries that share those of keys and values; with biases Qwen2's, with norms of queries and keys
// Qwen3's. Its parameters, by the names that they have in checkpoints; llama.cpp has what is done
// with them. https://huggingface.co/docs/transformers/model_doc/llama
#pragma once

#include "base/error.h"
#include "engine/state/layer_spec.h"
#include "gpt/config.h"

namespace gigagpt::llama {

using engine::AffineParam, engine::Param;

using Params = engine::DeclarationOf<GPTConfig>;

struct EmbeddingParams : Params {
  explicit EmbeddingParams(const GPTConfig& config) : Params(config, {"embedding"}) {}

  const Param embed_tokens =
      add("model.embed_tokens.weight", {c.vocab_size, c.width}, {.looked_up = true});
};

struct BlockParams : Params {
  BlockParams(const GPTConfig& config, int64_t i)
      : Params(config, {fmt::format("block.{}", i), fmt::format("model.layers.{}.", i)}) {
    spec_.pair_flops = 4 * double(HD);
    spec_.queries = {c.llama.qk_norm ? "self_attn.q_norm" : "self_attn.q_proj", HD};
  }

  const int64_t C = c.width, H = c.heads, G = c.llama.kv_heads.value_or(H);
  const int64_t D = c.llama.head_size.value_or(C / H);
  const int64_t HD = H * D, GD = G * D;
  const int64_t F = c.llama.ffn_width.value_or((8 * C / 3 + 63) / 64 * 64);

  const AffineParam input_layernorm = norm("input_layernorm", C);
  const AffineParam q_proj = linear("self_attn.q_proj", C, HD, {}, c.llama.qkv_bias);
  const AffineParam k_proj = linear("self_attn.k_proj", C, GD, {}, c.llama.qkv_bias);
  const AffineParam v_proj = linear("self_attn.v_proj", C, GD, {}, c.llama.qkv_bias);
  const AffineParam q_norm = c.llama.qk_norm ? norm("self_attn.q_norm", D) : AffineParam();
  const AffineParam k_norm = c.llama.qk_norm ? norm("self_attn.k_norm", D) : AffineParam();
  const AffineParam o_proj = linear("self_attn.o_proj", HD, C, {.ends_branch = true});
  const AffineParam post_attention_layernorm = norm("post_attention_layernorm", C);
  const AffineParam gate_proj = linear("mlp.gate_proj", C, F);
  const AffineParam up_proj = linear("mlp.up_proj", C, F);
  const AffineParam down_proj = linear("mlp.down_proj", F, C, {.ends_branch = true});
};

struct HeadParams : Params {
  explicit HeadParams(const GPTConfig& config) : Params(config, {"head"}) {
    if (tied) others_store("lm_head.weight", {c.vocab_size, c.width}, "model.embed_tokens.weight");
  }

  const bool tied = c.llama.tie_word_embeddings;
  const AffineParam final_norm = norm("model.norm", c.width);
  const Param lm_head = tied ? share("model.embed_tokens.weight", {.output = true})
                             : add("lm_head.weight", {c.vocab_size, c.width}, {.output = true});
};

}  // namespace gigagpt::llama
