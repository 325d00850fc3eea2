// GPT-2 with pre-layer-norm (Radford et al. 2019): its parameters, each with the name that it has
// in checkpoints. gpt2.cpp has what is done with them.
// https://huggingface.co/docs/transformers/model_doc/gpt2
#pragma once

#include "base/error.h"
#include "engine/state/layer_spec.h"
#include "gpt/config.h"

namespace gigagpt::gpt2 {

using engine::AffineParam, engine::Param;

class Params : public engine::DeclarationOf<GPTConfig> {
 protected:
  using DeclarationOf::DeclarationOf;

  // GPT-2's "Conv1D", whose weights are stored as [in, out]; a bias that we do not have is zeros.
  AffineParam conv1d(const std::string& name, const std::string& stored, int64_t in, int64_t out,
                     engine::ParamRule rule = {}) {
    if (!c.bias) also_store(*spec_.stored_prefix + stored + ".bias", {out});
    rule.stored_name = stored, rule.stored_transposed = true;
    return linear(name, in, out, rule, c.bias);
  }
};

struct EmbeddingParams : Params {
  explicit EmbeddingParams(const GPTConfig& config)
      : Params(config, {.name = "embedding", .stored_prefix = "transformer."}) {}

  const Param wte = add("wte.weight", {c.vocab_size, c.width}, {.looked_up = true});
  const Param wpe = add("wpe.weight", {c.max_position_embeddings, c.width}, {.per_token = 0});
};

struct BlockParams : Params {
  BlockParams(const GPTConfig& config, int64_t i)
      : Params(config, {.name = fmt::format("decoder.{}", i),
                        .prefix = fmt::format("decoder.{}.", i),
                        .stored_prefix = fmt::format("transformer.h.{}.", i)}) {
    spec_.pair_flops = 4 * double(C);
    spec_.queries = {"attn.proj_qkv", C};
    for (const char* mask : {"attn.bias", "attn.masked_bias"})  // what some files have besides
      others_store(*spec_.stored_prefix + mask, {});
  }

  const int64_t C = c.width;
  const AffineParam ln_1 = norm("ln_1", C, /*bias=*/true);
  const AffineParam proj_qkv = conv1d("attn.proj_qkv", "attn.c_attn", C, 3 * C);
  const AffineParam proj_output =
      conv1d("attn.proj_output", "attn.c_proj", C, C, {.ends_branch = true});
  const AffineParam ln_2 = norm("ln_2", C, /*bias=*/true);
  const AffineParam fc = conv1d("ffn.fc", "mlp.c_fc", C, 4 * C);
  const AffineParam proj = conv1d("ffn.proj", "mlp.c_proj", 4 * C, C, {.ends_branch = true});
};

struct HeadParams : Params {
  explicit HeadParams(const GPTConfig& config)
      : Params(config, {.name = "head", .stored_prefix = "transformer."}) {
    others_store("lm_head.weight", {c.vocab_size, c.width}, "wte.weight");
  }

  const AffineParam ln_f = norm("ln_f", c.width, /*bias=*/true);
  const Param wte = share("wte.weight", {.output = true});
};

}  // namespace gigagpt::gpt2
