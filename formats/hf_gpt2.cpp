#include "formats/hf_gpt2.h"

#include <algorithm>

#include "formats/bpe.h"
#include "formats/json.h"
#include "formats/tokenizer.h"

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

void write_tokenizer_config(const Path& directory, const HfGpt2Config& config, bool has_end) {
  nlohmann::ordered_json root = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                 {"model_max_length", config.n_positions},
                                 {"clean_up_tokenization_spaces", false}};
  if (has_end) {
    for (const char* key : {"bos_token", "eos_token", "unk_token"}) root[key] = kEndOfText;
  }
  write_text_atomically(directory / "tokenizer_config.json", to_text(root, 2) + "\n");
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
                     const std::string& tokenizer) {
  json end_of_text;  // null: none
  if (!tokenizer.empty()) {
    const auto id = Tokenizer::parse(tokenizer, "tokenizer.json").end_of_text();
    if (id) end_of_text = *id;
    Tokenizer::write(directory, tokenizer);
    write_tokenizer_config(directory, config, id.has_value());
  }
  const nlohmann::ordered_json root = {{"architectures", {"GPT2LMHeadModel"}},
                                       {"model_type", "gpt2"},
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
                                       {"tie_word_embeddings", true},
                                       {"torch_dtype", "float32"},
                                       {"bos_token_id", end_of_text},
                                       {"eos_token_id", end_of_text},
                                       {"gigagpt_bias", config.bias}};
  write_text_atomically(directory / "config.json", to_text(root, 2) + "\n");
}

std::vector<StoredTensor> hf_gpt2_tensors(const HfGpt2Config& config) {
  const int64_t width = config.n_embd;
  std::vector<StoredTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, std::string parameter) {
    tensors.push_back({"transformer." + name, std::move(shape), std::move(parameter)});
    tensors.back().other_name = name;
  };
  const auto layer_norm = [&](const std::string& name, const std::string& parameter) {
    add(name + ".weight", {width}, parameter + ".weight");
    add(name + ".bias", {width}, parameter + ".bias");
  };
  const auto conv1d = [&](const std::string& name, int64_t in, int64_t out,
                          const std::string& parameter) {
    add(name + ".weight", {in, out}, parameter + ".weight");
    tensors.back().transposed = true;
    add(name + ".bias", {out}, config.bias ? parameter + ".bias" : "");
  };
  add("wte.weight", {config.vocab_size, width}, "wte.weight");
  add("wpe.weight", {config.n_positions, width}, "wpe.weight");
  for (int64_t i = 0; i < config.n_layer; ++i) {
    const std::string theirs = fmt::format("h.{}.", i);
    const std::string ours = fmt::format("decoder.{}.", i);
    layer_norm(theirs + "ln_1", ours + "ln_1");
    conv1d(theirs + "attn.c_attn", width, 3 * width, ours + "attn.proj_qkv");
    conv1d(theirs + "attn.c_proj", width, width, ours + "attn.proj_output");
    layer_norm(theirs + "ln_2", ours + "ln_2");
    conv1d(theirs + "mlp.c_fc", width, 4 * width, ours + "ffn.fc");
    conv1d(theirs + "mlp.c_proj", 4 * width, width, ours + "ffn.proj");
  }
  layer_norm("ln_f", "ln_f");
  // What others write besides.
  tensors.push_back({"lm_head.weight", {config.vocab_size, width}, "wte.weight"});
  tensors.back().foreign = true;
  for (int64_t i = 0; i < config.n_layer; ++i) {
    for (const char* mask : {"bias", "masked_bias"}) {
      add(fmt::format("h.{}.attn.{}", i, mask), {}, "");
      tensors.back().foreign = true;
    }
  }
  return tensors;
}

}  // namespace gigagpt::formats
