#include "formats/hf_gpt2.h"

#include <algorithm>

#include "formats/json.h"

namespace gigagpt::formats {
namespace {

using nlohmann::json;

// Throws unless the key is absent or has the one value this program computes.
void require(const json& root, const std::string& where, const char* key, const json& wanted) {
  if (!root.contains(key) || root[key].is_null() || root[key] == wanted) return;
  fail("{}: {} is {}, but only {} is supported", where, key, shortened(to_text(root[key])),
       to_text(wanted));
}

// GPT-2's own, unless it is said, is the form with tanh.
std::string activation(const json& root, const std::string& where) {
  const auto name = root.value("activation_function", "gelu_new");
  const auto& known = hf_activations();
  if (std::find(known.begin(), known.end(), name) != known.end()) return name;
  fail("{}: activation_function is \"{}\", but only {} are supported", where, shortened(name),
       fmt::join(known, ", "));
}

double share(const json& root, const char* key, double absent, const std::string& where) {
  const double value = root.value(key, absent);
  if (value >= 0 && value < 1) return value;
  fail("{}: {} is {}, not from 0 to below 1", where, key, value);
}

HfGpt2Config parse_config(const json& root, const std::string& where) {
  require(root, where, "model_type", "gpt2");
  require(root, where, "layer_norm_epsilon", 1e-5);
  require(root, where, "scale_attn_weights", true);
  require(root, where, "scale_attn_by_inverse_layer_idx", false);
  require(root, where, "add_cross_attention", false);
  // What a config file may ask for too: 12 L C C and V C stay below 2^58.
  const auto size = [&](const char* key, int64_t most) {
    return whole_number(root, key, 1, most, where);
  };
  HfGpt2Config config;
  config.n_layer = size("n_layer", 1 << 18);
  config.n_head = size("n_head", 1 << 18);
  config.n_embd = size("n_embd", 1 << 18);
  config.n_positions = size("n_positions", 1 << 24);
  config.vocab_size = size("vocab_size", 1 << 24);
  config.activation = activation(root, where);
  config.dropout = share(root, "attn_pdrop", 0.0, where);
  config.initializer_range = share(root, "initializer_range", 0.02, where);
  config.bias = root.value("gigagpt_bias", true);
  require(root, where, "n_inner", 4 * config.n_embd);
  if (config.n_embd % config.n_head != 0) fail("{}: n_head does not divide n_embd", where);
  return config;
}

}  // namespace

const std::vector<std::string>& hf_activations() {
  static const std::vector<std::string> names = {"gelu", "gelu_new", "gelu_pytorch_tanh"};
  return names;
}

HfGpt2Config read_hf_config(const Path& directory) {
  const Path path = directory / "config.json";
  try {
    return parse_config(parse_json<json>(read_text(path), path.string()), path.string());
  } catch (const json::exception& error) {
    fail("{}: {}", path.string(), error.what());
  }
}

void write_hf_config(const Path& directory, const HfGpt2Config& config,
                     const std::string& tokenizer, const TextPairs& own) {
  const nlohmann::ordered_json root = {
      {"architectures", architectures("GPT2LMHeadModel", config.plain)},
      {"model_type", config.plain ? "gpt2" : kOwnModelType},
      {"activation_function", config.activation},
      {"n_layer", config.n_layer},
      {"n_head", config.n_head},
      {"n_embd", config.n_embd},
      {"n_inner", 4 * config.n_embd},
      {"n_positions", config.n_positions},
      {"n_ctx", config.n_positions},
      {"vocab_size", config.vocab_size},
      {"layer_norm_epsilon", 1e-5},
      {"initializer_range", config.initializer_range},
      {"embd_pdrop", config.dropout},
      {"attn_pdrop", config.dropout},
      {"resid_pdrop", config.dropout},
      {"scale_attn_weights", true},
      {"tie_word_embeddings", config.tied},
      {"torch_dtype", config.dtype},
      {"gigagpt_bias", config.bias}};
  write_model_config(directory, root, own, config.n_positions, tokenizer);
}

}  // namespace gigagpt::formats
