#include "gpt/law.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "gpt/config.h"

namespace gigagpt {
namespace {

GPTConfig config_of(const PublishedModel& model) {
  GPTConfig config;
  config.depth = model.depth, config.width = model.width, config.heads = model.heads;
  return config;
}

TEST(Law, ParametersAndFlopsOfAllSevenModelsAreAsPublished) {
  for (const PublishedModel& model : published_models()) {
    SCOPED_TRACE(model.name);
    const auto layers = config_of(model).layers();
    EXPECT_EQ(double(engine::parameter_count(layers)), model.parameters);
    const double flops = published_flops_per_token(layers, 2048) * model.tokens;
    EXPECT_EQ(fmt::format("{:.1e}", flops), fmt::format("{:.1e}", model.flops));
  }
}

// 3 L (24 d d + 8 s d) + 10 V d, written out for the smallest.
TEST(Law, FlopsByHand) {
  const double expected = 3.0 * 10 * (24.0 * 768 * 768 + 8.0 * 2048 * 768) + 10.0 * 50257 * 768;
  EXPECT_DOUBLE_EQ(published_flops_per_token(config_of(published_models()[0]).layers(), 2048),
                   expected);
}

// Of a family with heads that share keys and a head of its own: twelve matrices a block become
// fewer, and the embedding and the head are two.
TEST(Law, FlopsOfAnotherFamily) {
  GPTConfig config;
  config.model = "llama";
  config.depth = 3, config.width = 64, config.heads = 4, config.vocab_size = 100;
  config.llama.kv_heads = 2, config.llama.ffn_width = 160;
  config.llama.tie_word_embeddings = false;
  const double block = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160;
  EXPECT_DOUBLE_EQ(published_flops_per_token(config.layers(), 128),
                   3 * (6 * block + 3 * 8 * 128 * 64) + 10 * 100 * 64);
}

// The paper's losses lie within 1 % of its law, those of muP within 0.2 % of ours.
TEST(Law, LossesAreThoseOfTheModels) {
  for (const PublishedModel& model : published_models()) {
    SCOPED_TRACE(model.name);
    const double flops = published_flops_per_token(config_of(model).layers(), 2048) * model.tokens;
    EXPECT_NEAR(published_law(false).loss(flops), model.loss, 0.01 * model.loss);
    if (model.mup_loss > 0) {
      EXPECT_NEAR(published_law(true).loss(flops), model.mup_loss, 0.002 * model.mup_loss);
    }
  }
  EXPECT_DOUBLE_EQ(published_law(false).loss(5.984e22), 1.5066);
}

TEST(Law, TheNearestModelIsByRatio) {
  EXPECT_STREQ(nearest_published(1).name, "111M");
  EXPECT_STREQ(nearest_published(2e20).name, "1.3B");
  EXPECT_STREQ(nearest_published(1e25).name, "13B");
}

}  // namespace
}  // namespace gigagpt
