// What depends on the family of a config's model, and needs no LibTorch: its keys, declarations and
// config.json.
#include "base/error.h"
#include "formats/hf_gpt2.h"
#include "formats/hf_llama.h"
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

void GPTConfig::write_model(const Path& checkpoint, const std::string& tokenizer) {
  const auto own = option_texts(model_options());
  if (model == "llama") {
    const llama::BlockParams block(*this, 0);
    const ops::RopeRule& rope = llama.rope;
    formats::HfLlamaConfig hf{depth,
                              width,
                              heads,
                              block.G,
                              block.D,
                              block.F,
                              max_position_embeddings,
                              vocab_size,
                              rope.theta,
                              llama.norm_epsilon,
                              parametrisation.init_std,
                              {},
                              llama.tie_word_embeddings,
                              llama.qkv_bias,
                              llama.qk_norm};
    if (rope.factor > 1)
      hf.scaling = {rope.factor, rope.low_frequency_factor, rope.high_frequency_factor,
                    rope.original_positions};
    return formats::write_hf_config(checkpoint, hf, tokenizer, own);
  }
  formats::write_hf_config(checkpoint,
                           {depth, heads, width, max_position_embeddings, vocab_size, activation,
                            dropout, parametrisation.init_std, bias},
                           tokenizer, own);
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
