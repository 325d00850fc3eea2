// What checkpoints call the parameters, in which shapes, and what they have besides.
#include <gtest/gtest.h>

#include <set>

#include "base/testing.h"
#include "formats/gguf_model.h"
#include "gpt/config.h"
#include "gpt/exported.h"

namespace gigagpt {
namespace {

using formats::GgufSource, formats::GgufTensor, formats::GgufType, formats::StoredTensor;

GPTConfig gpt2_of(int64_t width, int64_t depth, int64_t heads, int64_t positions) {
  GPTConfig config;
  config.width = width, config.depth = depth, config.heads = heads;
  config.max_position_embeddings = positions;
  return config;
}

// The tensors of a checkpoint that we write.
std::vector<StoredTensor> own_tensors(const GPTConfig& config) {
  auto tensors = engine::stored_tensors(config.layers());
  std::erase_if(tensors, [](const StoredTensor& tensor) { return tensor.foreign; });
  return tensors;
}

TEST(StoredTensors, AreThoseOfGpt2) {
  GPTConfig config = gpt2_of(768, 12, 12, 1024);
  config.vocab_size = 50257;
  const auto tensors = own_tensors(config);
  ASSERT_EQ(tensors.size(), 2U + 12 * 12 + 2);
  int64_t total = 0;
  std::set<std::string> names;
  for (const StoredTensor& tensor : tensors) {
    int64_t count = 1;
    for (const int64_t extent : tensor.shape) count *= extent;
    total += count;
    names.insert(tensor.name);
  }
  EXPECT_EQ(names.size(), tensors.size());
  EXPECT_EQ(total, 124439808);  // what Hugging Face reports for "gpt2"
  const auto shape_of = [&](const std::string& name) {
    for (const StoredTensor& tensor : tensors) {
      if (tensor.name == "transformer." + name) return tensor.shape;
    }
    return std::vector<int64_t>{};
  };
  using Shape = std::vector<int64_t>;
  EXPECT_EQ(shape_of("wte.weight"), (Shape{50257, 768}));
  EXPECT_EQ(shape_of("wpe.weight"), (Shape{1024, 768}));
  EXPECT_EQ(shape_of("h.0.ln_1.weight"), Shape{768});
  EXPECT_EQ(shape_of("h.0.attn.c_attn.weight"), (Shape{768, 2304}));
  EXPECT_EQ(shape_of("h.0.attn.c_attn.bias"), Shape{2304});
  EXPECT_EQ(shape_of("h.5.attn.c_proj.weight"), (Shape{768, 768}));
  EXPECT_EQ(shape_of("h.11.mlp.c_fc.weight"), (Shape{768, 3072}));
  EXPECT_EQ(shape_of("h.11.mlp.c_proj.weight"), (Shape{3072, 768}));
  EXPECT_EQ(shape_of("h.11.mlp.c_proj.bias"), Shape{768});
  EXPECT_EQ(shape_of("ln_f.bias"), Shape{768});
}

TEST(StoredTensors, OnlyTheWeightsOfLinearLayersAreTransposed) {
  for (const StoredTensor& tensor : own_tensors(gpt2_of(12, 2, 3, 16))) {
    const bool linear = tensor.name.find(".c_") != std::string::npos && tensor.shape.size() == 2;
    EXPECT_EQ(tensor.transposed, linear) << tensor.name;
  }
}

TEST(StoredTensors, WithoutBiasTheFileHoldsZerosThatBelongToNoParameter) {
  GPTConfig config = gpt2_of(12, 2, 3, 16);
  config.bias = false;
  size_t zeros = 0;
  for (const StoredTensor& tensor : own_tensors(config)) {
    if (!tensor.parameter.empty()) continue;
    ++zeros;
    EXPECT_NE(tensor.name.find(".c_"), std::string::npos) << tensor.name;
    EXPECT_TRUE(tensor.name.ends_with(".bias")) << tensor.name;
  }
  EXPECT_EQ(zeros, 4U * 2);
  config.bias = true;
  for (const StoredTensor& tensor : own_tensors(config)) EXPECT_NE(tensor.parameter, "");
}

TEST(StoredTensors, OfOtherProgramsMayHaveMoreAndShorterNames) {
  for (const StoredTensor& tensor : engine::stored_tensors(gpt2_of(12, 2, 3, 16).layers())) {
    const bool head = tensor.name == "lm_head.weight";
    EXPECT_EQ(tensor.foreign,
              head || tensor.name.ends_with(".attn.bias") || tensor.name.ends_with("masked_bias"))
        << tensor.name;
    EXPECT_EQ("transformer." + tensor.other_name, head ? "transformer." : tensor.name);
    EXPECT_EQ(tensor.parameter == "wte.weight", head || tensor.name == "transformer.wte.weight");
  }
}

TEST(StoredTensors, BecomeWhatLlamaCppWants) {
  GPTConfig config = gpt2_of(48, 12, 2, 16);
  config.vocab_size = 50;
  const auto sources = formats::gguf_gpt2_tensors(folded_tensors(config), GgufType::kQ8_0);
  ASSERT_EQ(sources.size(), 4 + 12 * 12U);
  const auto find = [&](const std::string& name) {
    for (const GgufSource& source : sources) {
      if (source.tensor.name == name) return source;
    }
    ADD_FAILURE() << name;
    return sources[0];
  };
  const auto q8_0 = uint32_t(GgufType::kQ8_0), f16 = uint32_t(GgufType::kF16);
  EXPECT_EQ(find("token_embd.weight").tensor.type, f16);  // rows of 48 are not whole blocks
  EXPECT_EQ(find("position_embd.weight").tensor.type, 0U);
  EXPECT_EQ(find("output_norm.bias").tensor.type, 0U);
  const auto down = find("blk.11.ffn_down.weight");
  EXPECT_EQ(down.tensor, (GgufTensor{"blk.11.ffn_down.weight", q8_0, {48, 192}}));
  EXPECT_EQ(down.values.from.name, "transformer.h.11.mlp.c_proj.weight");
  EXPECT_EQ(find("blk.3.attn_qkv.weight").values.from.name, "transformer.h.3.attn.c_attn.weight");
  EXPECT_EQ(find("blk.3.attn_output.bias").values.from.name, "transformer.h.3.attn.c_proj.bias");
  EXPECT_EQ(find("blk.3.attn_norm.weight").values.from.name, "transformer.h.3.ln_1.weight");
  EXPECT_EQ(find("blk.3.ffn_norm.weight").values.from.name, "transformer.h.3.ln_2.weight");
  EXPECT_EQ(find("blk.3.ffn_up.bias").tensor, (GgufTensor{"blk.3.ffn_up.bias", 0, {192}}));
}

// Of one layer each; within a layer tree two parameters of one name are our own bug.
TEST(StoredTensors, OfOneNameAreAnError) {
  const engine::LayerSpec one{"one", "one.", {{"w", {2}, {.stored_name = "same"}}}, {}, 0, 0, "x."};
  const engine::LayerSpec two{"two", "two.", {{"w", {2}, {.stored_name = "same"}}}, {}, 0, 0, "x."};
  EXPECT_EQ(engine::stored_tensors({one}).size(), 1U);
  EXPECT_ERROR(engine::stored_tensors({one, two}),
               "layer two has a second tensor that checkpoints");
}

}  // namespace
}  // namespace gigagpt
