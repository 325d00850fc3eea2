// What depends on the family of a config's model, and needs no LibTorch: its keys, declarations and
// config.json.
#include <cmath>

#include "base/error.h"
#include "formats/hf_gpt2.h"
#include "formats/hf_llama.h"
#include "gpt/exported.h"
#include "gpt/gpt2.h"
#include "gpt/llama.h"

namespace gigagpt {

const std::vector<std::string>& GPTConfig::families() {
  static const std::vector<std::string> names = {"gpt2", "llama"};
  return names;
}

std::vector<Option> GPTConfig::model_options() {
  // Sizes end before their products overflow: 12 L C C and V C stay below 2^58.
  std::vector<Option> options = {
      {"model", &model, "family of the model", one_of(families())},
      {"max_position_embeddings", &max_position_embeddings, "longest sequence",
       between(1, 1 << 24)},
      {"vocab_size", &vocab_size, "token ids (V); by default the data set's", between(1, 1 << 24)},
      {"depth", &depth, "number of transformer blocks (L)", between(1, 1 << 18)},
      {"heads", &heads, "attention heads (H)", between(1, 1 << 18)},
      {"width", &width, "width of the residual stream (C)", between(1, 1 << 18)},
      {"document_mask", &document_mask,
       "documents in one row do not see each other, and each begins at position 0"},
  };
  for (Option& option : parametrisation.model_options()) options.push_back(std::move(option));
  if (model == "gpt2") {
    options.push_back({"bias", &bias, "biases on the linear layers"});
    options.push_back(
        {"activation", &activation, "GELU: exact, or GPT-2's", one_of(formats::hf_activations())});
  } else {
    for (Option& option : llama.options()) options.push_back(std::move(option));
  }
  return options;
}

void GPTConfig::check_model() const {
  const bool own_size = model == "llama" && llama.head_size;
  if (!own_size && width % heads != 0) fail("heads: {} does not divide width {}", heads, width);
  if (model == "llama") llama.check(heads, width / heads);
}

formats::HfGpt2Config gguf_form(const GPTConfig& c) {
  if (c.model != "gpt2")
    fail("model: {} is not a model of GPT-2's family, which alone is supported", c.model);
  return {.n_layer = c.depth,
          .n_head = c.heads,
          .n_embd = c.width,
          .n_positions = c.max_position_embeddings,
          .vocab_size = c.vocab_size,
          .activation = c.activation,
          .dropout = c.dropout,
          .initializer_range = c.parametrisation.init_std,
          .bias = c.bias};
}

namespace {

formats::HfLlamaConfig as_llama(const GPTConfig& c) {
  const llama::BlockParams block(c, 0);
  const ops::RopeRule& rope = c.llama.rope;
  formats::HfLlamaConfig hf{.layers = c.depth,
                            .width = c.width,
                            .heads = c.heads,
                            .kv_heads = block.G,
                            .head_size = block.D,
                            .ffn_width = block.F,
                            .positions = c.max_position_embeddings,
                            .vocab_size = c.vocab_size,
                            .rope_theta = rope.theta,
                            .norm_epsilon = c.llama.norm_epsilon,
                            .initializer_range = c.parametrisation.init_std,
                            .tied = c.llama.tie_word_embeddings,
                            .qkv_bias = c.llama.qkv_bias,
                            .qk_norm = c.llama.qk_norm};
  if (rope.factor > 1)
    hf.scaling = {rope.factor, rope.low_frequency_factor, rope.high_frequency_factor,
                  rope.original_positions};
  return hf;
}

struct Looks {
  bool plain = true, tied = true;
  std::string dtype = "float32";
};

void write_config(const GPTConfig& config, const Path& directory, const Looks& looks,
                  const std::string& tokenizer, const formats::TextPairs& own) {
  if (config.model == "llama") {
    formats::HfLlamaConfig hf = as_llama(config);
    hf.plain = looks.plain, hf.tied = hf.tied && looks.tied, hf.dtype = looks.dtype;
    return formats::write_hf_config(directory, hf, tokenizer, own);
  }
  formats::HfGpt2Config hf = gguf_form(config);
  hf.plain = looks.plain, hf.tied = looks.tied, hf.dtype = looks.dtype;
  formats::write_hf_config(directory, hf, tokenizer, own);
}

}  // namespace

void GPTConfig::write_model(const Path& checkpoint, const std::string& tokenizer) {
  write_config(*this, checkpoint, {.plain = parametrised().is_plain()}, tokenizer,
               option_texts(model_options()));
}

void write_folded(GPTConfig config, const Path& directory, const std::string& tokenizer,
                  const std::string& dtype) {
  const auto p = config.parametrised();
  write_config(config, directory, {.tied = p.embedding == p.output, .dtype = dtype}, tokenizer,
               p.is_plain() ? option_texts(config.model_options()) : formats::TextPairs());
}

std::vector<formats::FoldedTensor> folded_tensors(const GPTConfig& c) {
  const int64_t own = c.model == "llama" ? c.llama.head_size.value_or(0) : 0;
  const auto size = double(own > 0 ? own : c.width / c.heads);
  return engine::folded_tensors(c.layers(), 1 / std::sqrt(size));
}

namespace {

// The model that our own keys in a config.json say.
GPTConfig of_own_keys(const formats::TextPairs& own, const Path& file) try {
  GPTConfig config;
  const auto set = [&](const std::string& key, const std::string& value) {
    const auto options = config.model_options();
    set_option(find_option(options, key), value);
  };
  const std::string family = formats::find_text(own, "model");
  if (!family.empty()) set("model", family);  // which others there are depends on it
  for (const auto& [key, value] : own) set(key, value);
  config.check_model();
  return config;
} catch (const Error& error) {
  fail("{}: {}", file.string(), error.what());
}

GPTConfig of_gpt2(const formats::HfGpt2Config& hf) {
  GPTConfig config;
  config.max_position_embeddings = hf.n_positions, config.vocab_size = hf.vocab_size;
  config.depth = hf.n_layer, config.heads = hf.n_head, config.width = hf.n_embd;
  config.activation = hf.activation, config.bias = hf.bias;
  config.dropout = hf.dropout, config.parametrisation.init_std = hf.initializer_range;
  return config;
}

}  // namespace

GPTConfig GPTConfig::of_checkpoint(const Path& checkpoint) {
  const auto own = formats::read_own_keys(checkpoint);
  GPTConfig config = own.empty() ? of_gpt2(formats::read_hf_config(checkpoint))
                                 : of_own_keys(own, checkpoint / "config.json");
  config.sequence_length = config.max_position_embeddings;
  return config;
}

namespace {

template <class Embedding, class Block, class Head>
std::vector<engine::LayerSpec> declare(const GPTConfig& config) {
  std::vector<engine::LayerSpec> layers = {Embedding(config).spec()};
  for (int64_t i = 0; i < config.depth; ++i) layers.push_back(Block(config, i).spec());
  layers.push_back(Head(config).spec());
  return layers;
}

}  // namespace

std::vector<engine::LayerSpec> GPTConfig::layers() const {
  if (model == "llama")
    return declare<llama::EmbeddingParams, llama::BlockParams, llama::HeadParams>(*this);
  return declare<gpt2::EmbeddingParams, gpt2::BlockParams, gpt2::HeadParams>(*this);
}

}  // namespace gigagpt
