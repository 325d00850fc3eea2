// `gigagpt check` on every family, in all its variants, and what it makes of a config.
#include "gpt/check.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace gigagpt {
namespace {

struct Checked {
  const char* name;
  GPTConfig config;
};

GPTConfig gpt2(bool bias, const char* activation, double dropout) {
  GPTConfig config;
  config.bias = bias;
  config.activation = activation;
  config.dropout = dropout;
  return small_config(config);
}

GPTConfig llama(const LlamaKeys& keys) {
  GPTConfig config;
  config.model = "llama";
  config.llama = keys;
  return small_config(config);
}

class EveryFamily : public testing::TestWithParam<Checked> {};

TEST_P(EveryFamily, HoldsAllClaims) {
  int claims = 0;
  const int failures = check_gpt(GetParam().config, [&](const engine::Finding& finding) {
    ++claims;
    EXPECT_EQ(finding.problem, "") << finding.claim;
  });
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(claims, 18);
}

INSTANTIATE_TEST_SUITE_P(
    All, EveryFamily,
    testing::Values(Checked{"gpt2", gpt2(true, "gelu", 0)},
                    Checked{"gpt2_dropout", gpt2(false, "gelu_new", 0.1)},
                    Checked{"llama", llama({})},
                    Checked{"llama_own_head", llama({.kv_heads = 1, .tie_word_embeddings = false})},
                    Checked{"qwen2", llama({.kv_heads = 4, .ffn_width = 100, .qkv_bias = true})},
                    Checked{"qwen3",
                            llama({.head_size = 100, .rope = {.factor = 8}, .qk_norm = true})}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(SmallConfig, KeepsWhatIsNotASize) {
  GPTConfig config = llama({.kv_heads = 4, .qkv_bias = true, .norm_epsilon = 1e-6});
  EXPECT_EQ(config.model, "llama");
  EXPECT_EQ(config.llama.kv_heads, 2) << "shared by some";
  EXPECT_TRUE(config.llama.qkv_bias);
  EXPECT_EQ(config.llama.norm_epsilon, 1e-6);
  EXPECT_EQ(config.width, 32);
  EXPECT_NO_THROW(config.check());
}

}  // namespace
}  // namespace gigagpt
