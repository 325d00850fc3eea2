#include "formats/hf_llama.h"

#include "formats/json.h"

namespace gigagpt::formats {

void write_hf_config(const Path& directory, const HfLlamaConfig& c, const std::string& tokenizer,
                     const TextPairs& own) {
  const std::string kind = c.qk_norm ? "Qwen3" : c.qkv_bias ? "Qwen2" : "Llama";
  nlohmann::ordered_json root = {{"architectures", architectures(kind + "ForCausalLM", c.plain)},
                                 {"model_type", !c.plain     ? kOwnModelType
                                                : c.qk_norm  ? "qwen3"
                                                : c.qkv_bias ? "qwen2"
                                                             : "llama"},
                                 {"hidden_act", "silu"},
                                 {"hidden_size", c.width},
                                 {"num_hidden_layers", c.layers},
                                 {"num_attention_heads", c.heads},
                                 {"num_key_value_heads", c.kv_heads},
                                 {"head_dim", c.head_size},
                                 {"intermediate_size", c.ffn_width},
                                 {"max_position_embeddings", c.positions},
                                 {"vocab_size", c.vocab_size},
                                 {"rms_norm_eps", c.norm_epsilon},
                                 {"rope_theta", c.rope_theta},
                                 {"rope_scaling", nullptr},
                                 {"initializer_range", c.initializer_range},
                                 {"attention_bias", c.qkv_bias},
                                 {"tie_word_embeddings", c.tied},
                                 {"torch_dtype", c.dtype}};
  if (c.scaling) {
    root["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", c.scaling->factor},
                            {"low_freq_factor", c.scaling->low_frequency_factor},
                            {"high_freq_factor", c.scaling->high_frequency_factor},
                            {"original_max_position_embeddings", c.scaling->original_positions}};
  }
  write_model_config(directory, std::move(root), own, c.positions, tokenizer);
}

}  // namespace gigagpt::formats
