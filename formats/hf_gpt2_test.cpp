// The Hugging Face layout of a GPT-2: config.json and the list of tensors.
#include "formats/hf_gpt2.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/testing.h"

namespace gigagpt::formats {
namespace {

using nlohmann::json;

const HfGpt2Config kSmall = {
    .n_layer = 2, .n_head = 3, .n_embd = 12, .n_positions = 16, .vocab_size = 63};

json small_json() {
  return {{"model_type", "gpt2"}, {"activation_function", "gelu"},
          {"n_layer", 2},         {"n_head", 3},
          {"n_embd", 12},         {"n_positions", 16},
          {"vocab_size", 63}};
}

HfGpt2Config read_json(const TemporaryDirectory& directory, const std::string& text) {
  directory.write("config.json", text);
  return read_hf_config(directory.path());
}

TEST(HfConfig, WrittenReadsBack) {
  const TemporaryDirectory directory;
  HfGpt2Config config = kSmall;
  config.dropout = 0.1;
  config.initializer_range = 0.005;
  config.activation = "gelu_pytorch_tanh";
  config.bias = false;
  write_hf_config(directory.path(), config);
  const HfGpt2Config read = read_hf_config(directory.path());
  EXPECT_EQ(read.n_layer, 2);
  EXPECT_EQ(read.n_head, 3);
  EXPECT_EQ(read.n_embd, 12);
  EXPECT_EQ(read.n_positions, 16);
  EXPECT_EQ(read.vocab_size, 63);
  EXPECT_EQ(read.dropout, 0.1);
  EXPECT_EQ(read.initializer_range, 0.005);
  EXPECT_EQ(read.activation, "gelu_pytorch_tanh");
  EXPECT_FALSE(read.bias);
}

TEST(HfConfig, WritesWhatTransformersNeeds) {
  const TemporaryDirectory directory;
  write_hf_config(directory.path(), kSmall);
  const auto root = json::parse(read_text(directory / "config.json"));
  EXPECT_EQ(root.at("architectures"), json::array({"GPT2LMHeadModel"}));
  EXPECT_EQ(root.at("model_type"), "gpt2");
  EXPECT_EQ(root.at("activation_function"), "gelu");  // the exact one, by erf
  EXPECT_EQ(root.at("layer_norm_epsilon"), 1e-5);
  EXPECT_EQ(root.at("n_inner"), 48);
  EXPECT_EQ(root.at("tie_word_embeddings"), true);
}

TEST(HfConfig, TakesDefaultsForWhatIsMissingOrNull) {
  const TemporaryDirectory directory;
  json root = small_json();
  root["n_inner"] = nullptr;
  root["scale_attn_weights"] = nullptr;
  const HfGpt2Config config = read_json(directory, root.dump());
  EXPECT_EQ(config.dropout, 0.0);
  root.erase("activation_function");
  EXPECT_EQ(read_json(directory, root.dump()).activation, "gelu_new");
  EXPECT_EQ(config.initializer_range, 0.02);
  EXPECT_TRUE(config.bias);
}

TEST(HfConfig, ModelsOfAnotherKindAreRefusedByKey) {
  const TemporaryDirectory directory;
  const std::vector<std::pair<std::string, json>> others = {
      {"model_type", "llama"},
      {"activation_function", "relu"},
      {"layer_norm_epsilon", 1e-6},
      {"scale_attn_weights", false},
      {"add_cross_attention", true},
      {"scale_attn_by_inverse_layer_idx", true},
      {"n_inner", 24}};
  for (const auto& [key, value] : others) {
    json root = small_json();
    root[key] = value;
    EXPECT_ERROR(read_json(directory, root.dump()), key + " is " + value.dump());
  }
}

TEST(HfConfig, BadValuesAreRefused) {
  const TemporaryDirectory directory;
  const std::string file = (directory / "config.json").string();
  const std::vector<json> not_sizes = {nullptr,        "12", true, json::array(),
                                       json::object(), 0,    -12,  12.5};
  for (const char* key : {"n_layer", "n_head", "n_embd", "n_positions", "vocab_size"}) {
    for (const json& value : not_sizes) {
      json root = small_json();
      root[key] = value;
      EXPECT_ERROR(read_json(directory, root.dump()), file) << key << " " << value;
    }
    json root = small_json();
    root.erase(key);
    EXPECT_ERROR(read_json(directory, root.dump()), key);
  }
  json root = small_json();
  root["n_head"] = 5;
  EXPECT_ERROR(read_json(directory, root.dump()), "n_head does not divide n_embd");
  for (const char* key : {"attn_pdrop", "initializer_range", "gigagpt_bias"}) {
    json bad = small_json();
    bad[key] = "text";
    EXPECT_ERROR(read_json(directory, bad.dump()), file) << key;
  }
}

// Products of such sizes would overflow, and a list of such a number of layers fill the memory.
TEST(HfConfig, SizesAndSharesThatNoConfigMayHaveAreRefused) {
  const TemporaryDirectory directory;
  const std::vector<std::pair<std::string, json>> bad = {
      {"n_layer", (1 << 18) + 1}, {"n_head", (1 << 18) + 1},   {"n_embd", (1 << 18) + 1},
      {"attn_pdrop", -0.5},       {"attn_pdrop", 1},           {"attn_pdrop", 1e308},
      {"initializer_range", -1},  {"initializer_range", 1e308}};
  for (const auto& [key, value] : bad) {
    json root = small_json();
    root["n_head"] = 1;
    root[key] = value;
    EXPECT_ERROR(read_json(directory, root.dump()), "config.json: " + key + " is ") << value;
  }
}

TEST(HfConfig, KeyThatComesTwiceIsRefused) {
  const TemporaryDirectory directory;
  const std::string text = small_json().dump();
  EXPECT_ERROR(read_json(directory, "{\"n_layer\":3," + text.substr(1)),
               "config.json: the key 'n_layer' appears twice");
}

// Printing it for a message would take a stack as deep.
TEST(HfConfig, DeepNestingIsRefused) {
  const TemporaryDirectory directory;
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  EXPECT_ERROR(read_json(directory, "{\"model_type\":" + deep + "}"), "nested");
}

TEST(HfConfig, BadFileIsRefused) {
  const TemporaryDirectory directory;
  const std::string file = (directory / "config.json").string();
  EXPECT_ERROR(read_hf_config(directory.path()), "cannot open " + file);
  for (const char* text : {"", "{", "[]", "null", "1", "\"gpt2\"", "{}", "\xFF"}) {
    EXPECT_ERROR(read_json(directory, text), file) << text;
  }
}

TEST(HfConfig, WidthWhoseFourfoldOverflowsIsRefused) {
  const TemporaryDirectory directory;
  json root = small_json();
  root["n_head"] = 1;
  root["n_embd"] = INT64_MAX;
  EXPECT_ERROR(read_json(directory, root.dump()), "n_embd");
}

TEST(HfConfig, DamagedFilesNeverCrash) {
  const TemporaryDirectory directory;
  write_hf_config(directory.path(), kSmall);
  const std::string whole = read_text(directory / "config.json");
  std::mt19937_64 random(8);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = damaged(whole, random);
    ASSERT_TRUE(returns_or_throws_error([&] {
      const HfGpt2Config config = read_json(directory, text);
      write_hf_config(directory.path(), config);
      EXPECT_EQ(read_hf_config(directory.path()), config);
    })) << text;
  }
}

}  // namespace
}  // namespace gigagpt::formats
