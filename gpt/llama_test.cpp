// Models of `model: llama`: what the engine does with a second family, and its own shapes and
// files. gpt/model_test.cpp has them beside transformers.
#include "gpt/llama.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "engine/run/checkpoint.h"
#include "formats/json.h"
#include "gpt/oracle_testing.h"
#include "gpt/sample.h"
#include "gpt/testing.h"
#include "ops/testing.h"

namespace gigagpt {
namespace {

using at::Tensor;

struct Variant {
  const char* name;
  LlamaKeys keys;
};

class Llama : public Training, public testing::WithParamInterface<Variant> {
 protected:
  Llama() {
    config_.model = "llama";
    config_.width = 24;
    config_.heads = 4;
    config_.llama = GetParam().keys;
  }

  std::vector<formats::StepMetrics> run(const std::string& name, const std::string& store,
                                        int64_t stop_after = 0) {
    GPTConfig config = config_;
    config.out_dir = out(name).string();
    config.storage.store = store;
    if (std::filesystem::exists(config.out_dir)) config.saves.checkpoint_path = "latest";
    std::vector<formats::StepMetrics> log;
    train(config, {}, quiet(&log, stop_after));
    return log;
  }
};

INSTANTIATE_TEST_SUITE_P(
    Variants, Llama,
    testing::Values(Variant{"plain", {}}, Variant{"shared_heads", {.kv_heads = 2}},
                    Variant{"own_head", {.kv_heads = 1, .tie_word_embeddings = false}},
                    Variant{"qwen2", {.kv_heads = 2, .qkv_bias = true}},
                    Variant{"qwen3", {.head_size = 10, .ffn_width = 50, .qk_norm = true}},
                    Variant{"llama3", {.rope = {.factor = 8, .original_positions = 8}}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(Llama, EqualsThePlainAutogradOracleBitForBit) {
  at::manual_seed(1);
  config_.sequence_length = 11;
  expect_oracle_bits(config_);
}

TEST_P(Llama, ContinuedLogitsEqualThoseOfOnePass) {
  auto gpt = make_gpt(config_, /*training=*/false);
  gpt.store.initialise(2, {});
  const Tensor tokens = at::randint(0, 31, {1, 16}, at::kLong);
  const Tensor whole = gpt.executor.infer({tokens});
  std::vector<ops::Memory> memories(gpt.model.size(), ops::Memory(16));
  int64_t position = 0;
  for (const int64_t count : {5, 1, 1, 9}) {
    engine::MicroBatch batch{tokens.narrow(1, position, count)};
    batch.positions = at::arange(position, position + count).unsqueeze(0);
    const Tensor part = gpt.executor.infer(batch, memories);
    position += count;
    ops::expect_close(part, whole.narrow(1, position - 1, 1), 1e-5);
  }
}

TEST_P(Llama, LearnsTheSameBitsFromAFileAndAfterAStop) {
  const auto log = run("ram", "memory");
  ASSERT_EQ(log.size(), 8U);
  EXPECT_LT(log.back().loss, log.front().loss);
  run("stopped", "memory", 3);
  run("stopped", "memory");
  EXPECT_EQ(all_bytes(out("stopped") / "checkpoint_8"), all_bytes(out("ram") / "checkpoint_8"));
  run("file", (out("file.store")).string(), 5);
  run("file", (out("file.store")).string());
  const auto weights = [&](const char* name) {
    return read_text(out(name) / "checkpoint_8" / "model.safetensors");
  };
  EXPECT_EQ(weights("file"), weights("ram"));
}

// A checkpoint says all that the model is, with nothing beside it but its weights.
TEST_P(Llama, IsReadFromItsCheckpointAlone) {
  run("run", "memory");
  const Path checkpoint = out("run") / "checkpoint_8";
  std::filesystem::remove(checkpoint / "trainer_state.json");
  GPTConfig read = GPTConfig::of_checkpoint(checkpoint);
  EXPECT_EQ(option_texts(read.model_options()), option_texts(config_.model_options()));
  Sampler sampler(checkpoint, formats::Tokenizer::load(checkpoint), read, {});
  int tokens = 0;
  sampler.generate("#%&", {{0, 0, 0}, 30, 1},
                   [&](int32_t, std::span<const float>) { return ++tokens > 0; });
  EXPECT_EQ(tokens, 27) << "30 with the prompt, though the context is 16";
}

GPTConfig llama_config(const LlamaKeys& keys = {}) {
  GPTConfig config;
  config.model = "llama";
  config.llama = keys;
  return config;
}

// As transformers counts those of its models of these shapes.
TEST(LlamaShapes, AreThoseOfPublishedModels) {
  GPTConfig smol = llama_config({.kv_heads = 3, .ffn_width = 1536, .rope = {.theta = 1e5}});
  smol.width = 576, smol.depth = 30, smol.heads = 9, smol.vocab_size = 49152;
  EXPECT_EQ(engine::parameter_count(smol.layers()), 134515008) << "SmolLM2-135M";
  GPTConfig tiny = llama_config({.kv_heads = 4, .ffn_width = 5632, .tie_word_embeddings = false});
  tiny.width = 2048, tiny.depth = 22, tiny.heads = 32, tiny.vocab_size = 32000;
  EXPECT_EQ(engine::parameter_count(tiny.layers()), 1100048384) << "TinyLlama-1.1B";
  GPTConfig qwen = llama_config({.kv_heads = 2, .ffn_width = 4864, .qkv_bias = true});
  qwen.width = 896, qwen.depth = 24, qwen.heads = 14, qwen.vocab_size = 151936;
  EXPECT_EQ(engine::parameter_count(qwen.layers()), 494032768) << "Qwen2.5-0.5B";
  GPTConfig qwen3 =
      llama_config({.kv_heads = 8, .head_size = 128, .ffn_width = 3072, .qk_norm = true});
  qwen3.width = 1024, qwen3.depth = 28, qwen3.heads = 16, qwen3.vocab_size = 151936;
  EXPECT_EQ(engine::parameter_count(qwen3.layers()), 596049920) << "Qwen3-0.6B";
}

TEST(LlamaShapes, FlopsCountByHand) {
  GPTConfig config = llama_config({.kv_heads = 1, .ffn_width = 5});
  config.width = 4, config.depth = 2, config.heads = 2, config.vocab_size = 7;
  // A block: q and o 4 x 4, k and v 4 x 2, three of 4 x 5; the head 7 x 4. A token of 1 to 3 sees
  // two in the mean, and multiplies and adds 4 numbers twice for each.
  EXPECT_DOUBLE_EQ(engine::train_flops_per_token(config.layers(), 3),
                   3 * (2 * (2 * (16 + 16 + 8 + 8 + 60) + 28) + 2 * 2 * 16));
}

TEST(LlamaFiles, HaveTheNamesOfTransformers) {
  const auto names = [](const GPTConfig& config) {
    std::set<std::string> names;
    for (const auto& tensor : engine::stored_tensors(config.layers()))
      if (!tensor.foreign) names.insert(tensor.name);
    return names;
  };
  GPTConfig config = llama_config({.qkv_bias = true, .qk_norm = true});
  config.depth = 1;
  const std::string block = "model.layers.0.", attention = block + "self_attn.";
  std::set<std::string> wanted = {"model.embed_tokens.weight", "model.norm.weight",
                                  block + "input_layernorm.weight",
                                  block + "post_attention_layernorm.weight"};
  for (const char* name : {"q_proj", "k_proj", "v_proj"})
    wanted.insert({attention + name + ".weight", attention + name + ".bias"});
  for (const char* name : {"o_proj", "q_norm", "k_norm"})
    wanted.insert(attention + name + ".weight");
  for (const char* name : {"gate_proj", "up_proj", "down_proj"})
    wanted.insert(block + "mlp." + name + ".weight");
  EXPECT_EQ(names(config), wanted);
  config.llama.tie_word_embeddings = false;
  wanted.insert("lm_head.weight");
  EXPECT_EQ(names(config), wanted);
}

TEST(LlamaFiles, ConfigSaysWhatTransformersNeeds) {
  const TemporaryDirectory folder;
  const auto root_of = [&](const LlamaKeys& keys) {
    GPTConfig config = llama_config(keys);
    config.write_model(folder.path(), "");
    return formats::parse_json<nlohmann::json>(read_text(folder / "config.json"), "config.json");
  };
  const auto llama = root_of({.kv_heads = 4, .rope = {.theta = 5e5, .factor = 8}});
  EXPECT_EQ(llama.at("architectures")[0], "LlamaForCausalLM");
  EXPECT_EQ(llama.at("num_key_value_heads"), 4);
  EXPECT_EQ(llama.at("head_dim"), 64);
  EXPECT_EQ(llama.at("intermediate_size"), 2048);
  EXPECT_EQ(llama.at("rope_scaling").at("rope_type"), "llama3");
  EXPECT_EQ(root_of({.qkv_bias = true}).at("model_type"), "qwen2");
  EXPECT_EQ(root_of({.qk_norm = true}).at("model_type"), "qwen3");
}

TEST(LlamaFiles, OwnKeysThatAreNotGoodNameTheFile) {
  const TemporaryDirectory folder;
  const auto read = [&](const std::string& own) {
    folder.write("config.json", "{\"gigagpt\": {" + own + "}}");
    return GPTConfig::of_checkpoint(folder.path());
  };
  EXPECT_EQ(read(R"("depth": "3")").model, "gpt2") << "unless it is said";
  EXPECT_EQ(read(R"("kv_heads": "3", "model": "llama")").llama.kv_heads, 3);
  EXPECT_ERROR(read(R"("model": "bert")"), "config.json: model: 'bert' is not one of");
  EXPECT_ERROR(read(R"("kv_heads": "3")"), "config.json: unknown key 'kv_heads'");
  EXPECT_ERROR(read(R"("heads": "5")"), "heads: 5 does not divide width 768");
}

TEST(LlamaConfig, NamesWhatDoesNotGoTogether) {
  const auto check = [](const LlamaKeys& keys) { llama_config(keys).check(); };
  EXPECT_NO_THROW(check({.kv_heads = 4, .head_size = 50}));
  EXPECT_ERROR(check({.kv_heads = 5}), "kv_heads: 5 does not divide heads 12");
  EXPECT_ERROR(check({.head_size = 33}), "head_size: 33 is odd");
  EXPECT_ERROR(check({.rope = {.low_frequency_factor = 4}}),
               "is not below rope_high_frequency_factor");
}

}  // namespace
}  // namespace gigagpt
