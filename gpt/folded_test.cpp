// A model with multipliers as other programs have it: plain, with the factors in its weights.
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/random.h"
#include "engine/model/oracle.h"
#include "gpt/exported.h"
#include "gpt/model.h"
#include "gpt/testing.h"
#include "ops/testing.h"

namespace gigagpt {
namespace {

using at::Tensor;

// A value for each parameter, by its full name.
std::map<std::string, Tensor> draw(const GPTConfig& config) {
  std::map<std::string, Tensor> values;
  for (const auto& layer : config.layers()) {
    for (const auto& param : layer.params)
      values[layer.prefix + param.name] =
          at::randn(param.shape) * (param.shape.size() > 1 ? 0.15 : 0.1) +
          double(param.name.find("norm.weight") != std::string::npos ||
                 (param.name.starts_with("ln_") && param.name.ends_with("weight")));
  }
  return values;
}

Tensor logits_of(const engine::Model& model, const Tensor& tokens,
                 const std::function<Tensor(const std::string&, bool shared)>& value_of) {
  const engine::MicroBatch batch{tokens};
  const engine::Pass pass{batch};
  Tensor x = tokens;
  for (const auto& layer : model) {
    const engine::LayerSpec& spec = layer->spec();
    engine::Weights weights(at::kFloat, spec.params.size());
    for (const auto& param : spec.params)
      weights.add({value_of(spec.prefix + param.name, false), nullptr, param.rule.multiplier});
    for (const auto& [name, multiplier] : spec.shared)
      weights.add({value_of(name, true), nullptr, multiplier});
    x = layer->forward(weights, x, pass);
  }
  return x;
}

// Outputs are rows of a matrix as we have it, whether or not it is stored the other way round.
Tensor folded(const formats::FoldedTensor& tensor, const Tensor& value) {
  Tensor result = value.clone();
  for (int64_t row = 0; row < value.size(0); ++row) result[row] *= tensor.factor_of(row);
  return result;
}

// The plain model's logits are the same up to roundings: some ten sums of 100 terms and less.
void expect_same_logits(GPTConfig config) {
  const Tensor tokens = at::randint(0, config.vocab_size, {2, config.sequence_length}, at::kLong);
  const auto values = draw(config);
  const Tensor expected = logits_of(make_model(config), tokens,
                                    [&](const std::string& name, bool) { return values.at(name); });
  std::map<std::string, Tensor> own, of_use;  // by our names, and those of a use with its own
  std::set<std::string> names;
  for (const auto& tensor : folded_tensors(config)) {
    EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name;
    if (tensor.from.parameter.empty()) continue;
    auto& to = tensor.name == tensor.from.name ? own : of_use;
    to[tensor.from.parameter] = folded(tensor, values.at(tensor.from.parameter));
  }
  config.parametrisation = {};
  EXPECT_TRUE(config.parametrised().is_plain());
  const Tensor plain =
      logits_of(make_model(config), tokens, [&](const std::string& name, bool shared) {
        return shared && of_use.contains(name) ? of_use.at(name) : own.at(name);
      });
  EXPECT_GT(expected.std().item<double>(), 0.05) << "flat logits would show nothing";
  ops::expect_close(plain, expected, 2e-5 * expected.abs().max().item<double>());
}

void give_multipliers(GPTConfig& config, bool depth) {
  config.parametrisation.mup_base_width = 2 * config.width;
  if (depth) config.parametrisation.mup_base_depth = 1;
  config.parametrisation.embedding_multiplier = 3;
  config.parametrisation.output_multiplier = 0.7;
}

TEST(Folded, Gpt2GivesTheSameLogits) {
  at::manual_seed(1);
  for (const bool bias : {true, false}) {
    for (const bool depth : {true, false}) {
      GPTConfig config = tiny_config("");
      config.bias = bias;
      expect_same_logits(config);
      give_multipliers(config, depth);
      expect_same_logits(config);
      EXPECT_EQ(folded_tensors(config).back().name, "lm_head.weight");
    }
  }
}

TEST(Folded, LlamaAndItsKinGiveTheSameLogits) {
  at::manual_seed(2);
  for (const bool tied : {true, false}) {
    for (const bool norm : {true, false}) {
      GPTConfig config = tiny_config("");
      config.model = "llama";
      config.width = 24, config.heads = 4;
      config.llama.kv_heads = 2;
      config.llama.head_size = 10;
      config.llama.tie_word_embeddings = tied;
      config.llama.qk_norm = norm;
      config.llama.qkv_bias = !norm;
      give_multipliers(config, /*depth=*/true);
      expect_same_logits(config);
    }
  }
}

TEST(Folded, OfAPlainModelIsWhatIsStored) {
  const GPTConfig config = tiny_config("");
  const auto stored = engine::stored_tensors(config.layers());
  const auto folded = folded_tensors(config);
  for (size_t i = 0; i < folded.size(); ++i) {
    EXPECT_EQ(folded[i].name, stored[i].name);
    EXPECT_EQ(folded[i].factor_of(0), 1);
  }
}

}  // namespace
}  // namespace gigagpt
