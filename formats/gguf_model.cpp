#include "formats/gguf_model.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "formats/hf_gpt2.h"

namespace gigagpt::formats {
namespace {

// llama.cpp's LLAMA_FTYPE_*: what most of a file's weights are.
uint32_t file_type(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return 0;
    case GgufType::kF16:
      return 1;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kBF16:
      return 32;
  }
  return 0;
}

// llama.cpp's name for one of Hugging Face's tensors, without ".weight" or ".bias".
std::string llama_name(const std::string& part) {
  static constexpr std::array<std::pair<const char*, const char*>, 9> kNames = {
      {{"wte", "token_embd"},
       {"wpe", "position_embd"},
       {"ln_f", "output_norm"},
       {"ln_1", "attn_norm"},
       {"attn.c_attn", "attn_qkv"},
       {"attn.c_proj", "attn_output"},
       {"ln_2", "ffn_norm"},
       {"mlp.c_fc", "ffn_up"},
       {"mlp.c_proj", "ffn_down"}}};
  for (const auto& [theirs, name] : kNames) {
    if (part == theirs) return name;
  }
  GIGAGPT_ASSERT(false);
  return {};
}

// "transformer.h.3.ln_1.weight" as "blk.3.attn_norm.weight".
std::string llama_tensor_name(const std::string& stored) {
  if (stored == "lm_head.weight") return "output.weight";
  std::string name = stored.substr(std::string_view("transformer.").size());
  std::string block;
  if (name.starts_with("h.")) {
    const size_t end = name.find('.', 2) + 1;
    block = "blk." + name.substr(2, end - 2);
    name = name.substr(end);
  }
  const size_t kind = name.rfind('.');
  return block + llama_name(name.substr(0, kind)) + name.substr(kind);
}

// How llama.cpp's RWKV tokenizer writes the bytes of a token.
std::string escaped(const std::string& bytes) {
  std::string text;
  for (const unsigned char byte : bytes) {
    if (byte == '\\') {
      text += "\\\\";
    } else if (byte < 0x20 || byte >= 0x7F) {
      text += fmt::format("\\x{:02x}", byte);
    } else {
      text += char(byte);
    }
  }
  return text;
}

// llama.cpp's LLAMA_TOKEN_TYPE_*.
enum TokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

// What is the same for every kind of tokenizer: `text` and `type` of its tokens, then unused ones.
template <class Text, class Type>
GgufEntries tokenizer_entries(const char* model, const Tokenizer& tokenizer, int64_t vocab_size,
                              Text text, Type type) {
  const int64_t own = tokenizer.vocab_size();
  if (own > vocab_size) {
    fail("the tokenizer has {} tokens, but the model's vocab_size is {}: it belongs to another one",
         own, vocab_size);
  }
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  for (int32_t id = 0; id < own; ++id) {
    tokens.push_back(text(id));
    types.push_back(type(id));
  }
  const std::set<std::string> taken(tokens.begin(), tokens.end());
  for (int64_t id = own; id < vocab_size; ++id) {
    std::string name = fmt::format("[PAD{}]", id);
    while (taken.contains(name)) name += "_";  // llama.cpp does not take a text twice
    tokens.push_back(std::move(name));
    types.push_back(kUnused);
  }
  return {{"tokenizer.ggml.model", std::string(model)},
          {"tokenizer.ggml.tokens", GgufArray(std::move(tokens))},
          {"tokenizer.ggml.token_type", GgufArray(std::move(types))},
          {"tokenizer.ggml.add_bos_token", false}};
}

// Characters are what llama.cpp's RWKV tokenizer cuts out too: always the longest token that the
// text goes on with, and no UTF-8 character begins with another. Unlike its "gpt2" tokenizer, which
// would make token 11 the end of all text, it does without an end of text.
GgufEntries character_tokenizer(const Tokenizer& tokenizer, int64_t vocab_size) {
  GgufEntries entries = tokenizer_entries(
      "rwkv", tokenizer, vocab_size, [&](int32_t id) { return escaped(tokenizer.decode(id)); },
      [](int32_t) { return kNormal; });
  // Characters that the model does not know become spaces; without this they end llama.cpp.
  entries.emplace_back("tokenizer.ggml.unknown_token_id",
                       uint32_t(std::max(tokenizer.token_of(' '), 0)));
  return entries;
}

GgufEntries byte_level_tokenizer(const Tokenizer& tokenizer, int64_t vocab_size) {
  if (tokenizer.adds_prefix_space()) {
    fail(
        "the tokenizer has add_prefix_space, which llama.cpp's does not know: set it to false in "
        "tokenizer.json and begin prompts with a space");
  }
  const auto type = [&](int32_t id) {
    if (!tokenizer.is_added(id)) return kNormal;
    return tokenizer.is_special(id) ? kControl : kUserDefined;
  };
  GgufEntries entries = tokenizer_entries(
      "gpt2", tokenizer, vocab_size, [&](int32_t id) { return tokenizer.token_text(id); }, type);
  const auto end = uint32_t(gguf_end_of_text(tokenizer, vocab_size));
  entries.emplace_back("tokenizer.ggml.pre", std::string("gpt-2"));
  entries.emplace_back("tokenizer.ggml.merges", GgufArray(tokenizer.merges()));
  entries.emplace_back("tokenizer.ggml.bos_token_id", end);
  entries.emplace_back("tokenizer.ggml.eos_token_id", end);
  return entries;
}

}  // namespace

std::vector<GgufSource> gguf_gpt2_tensors(std::span<const FoldedTensor> tensors, GgufType type) {
  std::vector<GgufSource> sources;
  for (const FoldedTensor& folded : tensors) {
    GgufTensor tensor{llama_tensor_name(folded.name), uint32_t(type), folded.from.shape};
    if (folded.from.transposed) std::swap(tensor.shape[0], tensor.shape[1]);
    if (tensor.shape.size() == 1 || tensor.name == "position_embd.weight") {
      tensor.type = uint32_t(GgufType::kF32);
    } else if (tensor.shape.back() % gguf_layout(tensor.type)->elements != 0) {
      tensor.type = uint32_t(GgufType::kF16);
    }
    sources.push_back({tensor, folded});
  }
  return sources;
}

GgufModel gguf_model(const HfGpt2Config& config, std::span<const FoldedTensor> tensors,
                     GgufType type, const std::string& name) {
  GgufModel model;
  model.sources = gguf_gpt2_tensors(tensors, type);
  model.entries = {{"general.architecture", std::string("gpt2")},
                   {"general.type", std::string("model")},
                   {"general.name", name},
                   {"general.file_type", file_type(type)},
                   {"general.quantization_version", uint32_t{2}},
                   {"gpt2.vocab_size", uint32_t(config.vocab_size)},
                   {"gpt2.context_length", uint32_t(config.n_positions)},
                   {"gpt2.embedding_length", uint32_t(config.n_embd)},
                   {"gpt2.feed_forward_length", uint32_t(4 * config.n_embd)},
                   {"gpt2.block_count", uint32_t(config.n_layer)},
                   {"gpt2.attention.head_count", uint32_t(config.n_head)},
                   {"gpt2.attention.layer_norm_epsilon", 1e-5F}};
  model.vocab_size = config.vocab_size;
  if (config.activation == "gelu") {
    model.note =
        "llama.cpp computes GELU by its tanh approximation, this model by the exact formula: "
        "logits there differ by some 0.001";
  }
  return model;
}

GgufEntries gguf_tokenizer(const Tokenizer& tokenizer, int64_t vocab_size) {
  return tokenizer.is_character_level() ? character_tokenizer(tokenizer, vocab_size)
                                        : byte_level_tokenizer(tokenizer, vocab_size);
}

int64_t gguf_end_of_text(const Tokenizer& tokenizer, int64_t vocab_size) {
  return tokenizer.end_of_text().value_or(int32_t(
      tokenizer.vocab_size() < vocab_size ? tokenizer.vocab_size() : tokenizer.vocab_size() - 1));
}

GgufEntries gguf_no_tokenizer() {
  return {{"tokenizer.ggml.model", std::string("none")}};
}

}  // namespace gigagpt::formats
