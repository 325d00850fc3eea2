// The configuration: options, schedule, micro-batches, sizes of known models, and its checks.
#include "gpt/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "base/testing.h"

namespace gigagpt {
namespace {

// A valid text for an option that is not its present value.
std::string other_value(const Option& option) {
  const std::string now = option_text(option);
  if (!option.rule.choices.empty()) {
    for (const std::string& choice : option.rule.choices) {
      if (choice != now) return choice;
    }
  }
  if (std::holds_alternative<bool*>(option.target)) return now == "true" ? "false" : "true";
  if (std::holds_alternative<double*>(option.target) ||
      std::holds_alternative<std::optional<double>*>(option.target)) {
    return option.rule.min >= 1 ? "1.4375" : "0.4375";
  }
  return "12345";
}

std::map<std::string, std::string> texts_of(GPTConfig& config) {
  std::map<std::string, std::string> texts;
  for (const Option& option : config.options()) texts[option.name] = option_text(option);
  return texts;
}

// Which options there are depends on the family.
class ConfigOptions : public testing::TestWithParam<std::string> {
 protected:
  static GPTConfig defaults() {
    GPTConfig config;
    config.model = GetParam();
    return config;
  }
};

INSTANTIATE_TEST_SUITE_P(Families, ConfigOptions, testing::ValuesIn(GPTConfig::families()),
                         [](const auto& info) { return info.param; });

TEST_P(ConfigOptions, EachSetsItsOwnFieldAndReadsBack) {
  GPTConfig unchanged = defaults();
  const auto before = texts_of(unchanged);
  ASSERT_EQ(before.size(), unchanged.options().size()) << "a name appears twice";
  for (size_t i = 0; i < before.size(); ++i) {
    GPTConfig config = defaults();
    const Option option = config.options()[i];
    if (option.name == "model") continue;
    const std::string value = other_value(option);
    set_option(option, value);
    auto expected = before;
    expected[option.name] = value;
    EXPECT_EQ(texts_of(config), expected) << option.name;
    EXPECT_FALSE(option.help.empty()) << option.name;
  }
}

TEST_P(ConfigOptions, DefaultsAreAllowedAndReadBack) {
  GPTConfig from = defaults(), to = defaults(), unchanged = defaults();
  for (const Option& option : from.options()) {
    if (option.name != "model") set_option(option, other_value(option));
  }
  const auto changed = texts_of(from);
  for (const Option& option : to.options()) set_option(option, changed.at(option.name));
  EXPECT_EQ(texts_of(to), changed);
  for (const Option& option : to.options()) set_option(option, texts_of(unchanged).at(option.name));
  EXPECT_EQ(texts_of(to), texts_of(unchanged));
}

TEST(Config, OptionsOfAllFamiliesCoverEveryField) {
  GPTConfig config;
  std::map<std::string, size_t> bytes;
  for (const std::string& family : GPTConfig::families()) {
    config.model = family;
    for (const Option& option : config.options()) {
      bytes[option.name] =
          std::visit([](const auto* field) { return sizeof(*field); }, option.target);
    }
  }
  size_t all = 0;
  for (const auto& [_, size] : bytes) all += size;
  // What is left is padding after `bias`, `document_mask`, `checkpoint_moments` and `keep_best`,
  // and after the llama's three fields in a row, the only ones that are not of eight bytes or more.
  EXPECT_EQ(sizeof(GPTConfig) - all, 7 + 7 + 7 + 7 + 5U);
}

TEST(Config, DefaultsAreThoseOfGigaGpt) {
  GPTConfig config;
  const auto texts = texts_of(config);
  const std::map<std::string, std::string> published = {{"max_position_embeddings", "2048"},
                                                        {"vocab_size", "50257"},
                                                        {"depth", "12"},
                                                        {"heads", "12"},
                                                        {"width", "768"},
                                                        {"dropout", "0"},
                                                        {"bias", "true"},
                                                        {"init_std", "0.02"},
                                                        {"out_dir", "out"},
                                                        {"dataset", "openwebtext"},
                                                        {"batch_size", "120"},
                                                        {"sequence_length", "2048"},
                                                        {"num_steps", "10000"},
                                                        {"checkpoint_steps", "1000"},
                                                        {"learning_rate", "0.0006"},
                                                        {"warmup_steps", "1500"},
                                                        {"decay_steps", "null"},
                                                        {"weight_decay", "0.1"},
                                                        {"max_gradient_norm", "1"},
                                                        {"adam_epsilon", "1e-08"},
                                                        {"checkpoint_path", "null"},
                                                        {"seed", "0"}};
  for (const auto& [name, text] : published) EXPECT_EQ(texts.at(name), text) << name;
}

GPTConfig schedule(const std::string& decay) {
  GPTConfig config;
  config.optim.learning_rate = 2;
  config.optim.warmup_steps = 4;
  config.num_steps = 12;
  config.optim.lr_decay = decay;
  return config;
}

TEST(LearningRate, WarmsUpFromZeroToThePeak) {
  for (const char* decay : {"cosine", "linear"}) {
    const GPTConfig config = schedule(decay);
    EXPECT_EQ(config.optim.learning_rate_at(0, config.num_steps), 0);
    EXPECT_EQ(config.optim.learning_rate_at(1, config.num_steps), 0.5);
    EXPECT_EQ(config.optim.learning_rate_at(3, config.num_steps), 1.5);
    EXPECT_EQ(config.optim.learning_rate_at(4, config.num_steps), 2);
  }
}

TEST(LearningRate, FollowsTheCosineToATenth) {
  const GPTConfig config = schedule("cosine");
  // 2 (0.1 + 0.9 (1 + cos(pi t)) / 2) with t = 1/4, 1/2, 3/4 of the 8 steps after warm-up.
  EXPECT_NEAR(config.optim.learning_rate_at(6, config.num_steps), 0.2 + 0.9 * (1 + std::sqrt(0.5)),
              1e-15);
  EXPECT_NEAR(config.optim.learning_rate_at(8, config.num_steps), 1.1, 1e-15);
  EXPECT_NEAR(config.optim.learning_rate_at(10, config.num_steps), 0.2 + 0.9 * (1 - std::sqrt(0.5)),
              1e-15);
  EXPECT_NEAR(config.optim.learning_rate_at(12, config.num_steps), 0.2, 1e-15);
}

TEST(LearningRate, FollowsTheLineToATenth) {
  const GPTConfig config = schedule("linear");
  EXPECT_NEAR(config.optim.learning_rate_at(5, config.num_steps), 2 - 1.8 / 8, 1e-15);
  EXPECT_NEAR(config.optim.learning_rate_at(8, config.num_steps), 1.1, 1e-15);
  EXPECT_NEAR(config.optim.learning_rate_at(12, config.num_steps), 0.2, 1e-15);
}

TEST(LearningRate, StaysAtATenthAfterTheDecay) {
  for (const char* decay : {"cosine", "linear"}) {
    GPTConfig config = schedule(decay);
    config.optim.decay_steps = 2;
    EXPECT_NEAR(config.optim.learning_rate_at(5, config.num_steps), 1.1, 1e-15);
    for (const int64_t step : {6, 7, 12, 1000000}) {
      EXPECT_NEAR(config.optim.learning_rate_at(step, config.num_steps), 0.2, 1e-15) << step;
    }
  }
}

TEST(LearningRate, EndsAtMinLr) {
  for (const char* decay : {"cosine", "linear", "wsd"}) {
    GPTConfig config = schedule(decay);
    config.optim.min_lr = 0.5;
    EXPECT_NEAR(config.optim.learning_rate_at(12, 12), 0.5, 1e-15) << decay;
  }
  GPTConfig config = schedule("linear");
  config.optim.min_lr = 0;
  EXPECT_NEAR(config.optim.learning_rate_at(8, 12), 1, 1e-15);
}

TEST(LearningRate, IsConstantOrFallsWithTheRootOfTheSteps) {
  const GPTConfig constant = schedule("constant"), root = schedule("inverse_sqrt");
  for (const int64_t step : {4, 8, 1000}) EXPECT_EQ(constant.optim.learning_rate_at(step, 12), 2);
  EXPECT_EQ(root.optim.learning_rate_at(1, 12), 0.5);
  EXPECT_EQ(root.optim.learning_rate_at(4, 12), 2);
  EXPECT_NEAR(root.optim.learning_rate_at(16, 12), 1, 1e-15);
  EXPECT_NEAR(root.optim.learning_rate_at(1600, 12), 0.1, 1e-15);
}

TEST(LearningRate, IsStableUntilTheLastStretch) {
  GPTConfig config = schedule("wsd");
  config.optim.decay_steps = 4;
  const auto at = [&](int64_t step) { return config.optim.learning_rate_at(step, 12); };
  EXPECT_EQ(at(1), 0.5);
  EXPECT_EQ(at(4), 2);
  EXPECT_EQ(at(8), 2);
  EXPECT_NEAR(at(10), 1.1, 1e-15);
  EXPECT_NEAR(at(12), 0.2, 1e-15);
  config.optim.decay_steps.reset();  // a tenth: the last step
  EXPECT_EQ(at(11), 2);
  EXPECT_NEAR(at(12), 0.2, 1e-15);
  EXPECT_EQ(config.optim.run_length(12), 12);
  config.optim.decay_from = 5;
  EXPECT_EQ(config.optim.run_length(12), 12);
  EXPECT_EQ(at(5), 2);
  EXPECT_NEAR(at(12), 0.2, 1e-15);
  config.optim.decay_steps = 2;  // the run ends with the decay
  EXPECT_EQ(config.optim.run_length(12), 7);
  EXPECT_EQ(config.optim.run_length(7), 7);
  EXPECT_NEAR(at(6), 1.1, 1e-15);
}

TEST(LearningRate, RefusesSchedulesThatCannotBe) {
  const auto error_of = [](const auto& change) {
    GPTConfig config = schedule("wsd");
    change(config.optim);
    try {
      config.check();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  using Rules = engine::OptimizerRules;
  EXPECT_EQ(error_of([](Rules&) {}), "");
  EXPECT_EQ(error_of([](Rules& rules) { rules.decay_steps = 9; }),
            "decay_steps: the decay would begin at step 3, in the 4 steps of warm-up");
  EXPECT_EQ(error_of([](Rules& rules) { rules.decay_from = 12; }),
            "decay_from: step 12 is not before num_steps 12");
  EXPECT_EQ(error_of([](Rules& rules) { rules.min_lr = 3; }), "min_lr: 3 is above learning_rate 2");
  EXPECT_EQ(error_of([](Rules& rules) {
              rules.lr_decay = "cosine";
              rules.decay_from = 5;
            }),
            "decay_from: it is for lr_decay: wsd, not cosine");
}

TEST(LearningRate, TakesRunsWithoutWarmUpOrWithNothingElse) {
  GPTConfig config = schedule("cosine");
  config.optim.warmup_steps = 0;
  EXPECT_EQ(config.optim.learning_rate_at(0, config.num_steps), 2);
  EXPECT_NEAR(config.optim.learning_rate_at(6, config.num_steps), 1.1, 1e-15);
  for (const int64_t warmup : {12, 20}) {
    config.optim.warmup_steps = warmup;
    for (int64_t step = 0; step < 12; ++step) {
      EXPECT_NEAR(config.optim.learning_rate_at(step, config.num_steps),
                  2.0 * double(step) / double(warmup), 1e-15);
    }
  }
}

TEST(MicroBatch, IsTheLargestDivisorWithin4096Tokens) {
  GPTConfig config;
  for (const int64_t length : {1, 64, 128, 1000, 2048, 4096, 4097, 100000}) {
    for (int64_t batch = 1; batch <= 130; ++batch) {
      config.sequence_length = length;
      config.batch_size = batch;
      int64_t expected = 1;  // one sequence, however long
      for (int64_t size = 1; size <= batch; ++size) {
        if (batch % size == 0 && size * length <= 4096) expected = size;
      }
      ASSERT_EQ(config.micro_batch(), expected) << batch << " of " << length;
    }
  }
}

TEST(MicroBatch, IsWhatIsGiven) {
  GPTConfig config;
  config.micro_batch_size = 7;
  EXPECT_EQ(config.micro_batch(), 7);
}

GPTConfig model(int64_t width, int64_t depth, int64_t heads, int64_t positions) {
  GPTConfig config;
  config.width = width;
  config.depth = depth;
  config.heads = heads;
  config.max_position_embeddings = positions;
  return config;
}

// Both tables, per block two layer norms (2 C each) and four linear layers of 3 C^2 + 3 C,
// C^2 + C, 4 C^2 + 4 C and 4 C^2 + C, and the last layer norm. The head is tied to wte.
int64_t parameters_by_hand(const GPTConfig& config) {
  const int64_t C = config.width;
  const int64_t biases = config.bias ? 9 * C : 0;
  const int64_t block = 4 * C + 12 * C * C + biases;
  return (config.vocab_size + config.max_position_embeddings) * C + config.depth * block + 2 * C;
}

TEST(Parameters, CountsOfKnownModels) {
  const std::vector<std::pair<GPTConfig, int64_t>> known = {
      {model(768, 10, 12, 2048), 111050496},       // gigaGPT's 111m
      {model(12288, 96, 96, 2048), 174604259328},  // its 175b
      {model(768, 12, 12, 1024), 124439808},       // GPT-2 as Hugging Face counts it
      {model(1024, 24, 16, 1024), 354823168},      // medium
      {model(1280, 36, 20, 1024), 774030080},      // large
      {model(1600, 48, 25, 1024), 1557611200}};    // XL
  for (const auto& [config, count] : known) {
    EXPECT_EQ(engine::parameter_count(config.layers()), count);
    EXPECT_EQ(parameters_by_hand(config), count);
  }
}

TEST(Parameters, WithoutBiasOnlyTheLayerNormsKeepTheirs) {
  GPTConfig config = model(768, 10, 12, 2048);
  config.bias = false;
  EXPECT_EQ(engine::parameter_count(config.layers()), 111050496 - 10 * 9 * 768);
  EXPECT_EQ(parameters_by_hand(config), 111050496 - 10 * 9 * 768);
  for (const auto& layer : config.layers()) {
    for (const auto& param : layer.params) {
      if (!param.name.ends_with(".bias")) continue;
      EXPECT_TRUE(param.name.starts_with("ln_")) << param.name;
    }
  }
}

TEST(Parameters, AreDrawnAsGpt2Draws) {
  GPTConfig config = model(16, 8, 2, 32);
  config.parametrisation.init_std = 0.04;
  for (const auto& residual : {std::optional<double>(), std::optional<double>(0.5)}) {
    config.parametrisation.residual_init_std = residual;
    for (const auto& layer : config.layers()) {
      for (const auto& param : layer.params) {
        const bool matrix = param.shape.size() == 2;
        const bool into_residual =
            param.name == "attn.proj_output.weight" || param.name == "ffn.proj.weight";
        const bool scale = param.name.starts_with("ln_") && param.name.ends_with(".weight");
        const double std = into_residual ? residual.value_or(0.01) : 0.04;  // 0.04 / sqrt(2 8)
        EXPECT_DOUBLE_EQ(param.init().deviation, matrix ? std : 0) << param.name;
        EXPECT_EQ(param.init().mean, scale ? 1 : 0) << param.name;
      }
    }
  }
}

TEST(Layers, RunFromEmbeddingToTheTiedHead) {
  const auto layers = model(16, 3, 2, 32).layers();
  ASSERT_EQ(layers.size(), 5U);
  EXPECT_EQ(layers[0].name, "embedding");
  EXPECT_EQ(layers[1].prefix, "decoder.0.");
  EXPECT_EQ(layers[3].prefix, "decoder.2.");
  EXPECT_EQ(layers[4].name, "head");
  EXPECT_EQ(layers[4].shared, std::vector<engine::SharedParam>{{"wte.weight"}});
}

TEST(Flops, CountByHand) {
  GPTConfig config = model(2, 1, 1, 3);
  config.vocab_size = 3;
  config.sequence_length = 3;
  // Matrices: 12 C^2 = 48 in the block and V C = 6 in the head, a multiplication and an addition
  // for each: 108. Attention: token t of 1, 2, 3 scores t keys and adds up t values, 4 C t = 8 t
  // operations, 16 in the mean. Forward and twice as much backward: 3 (108 + 16).
  EXPECT_DOUBLE_EQ(engine::train_flops_per_token(config.layers(), config.sequence_length), 372);
  config.depth = 2;
  EXPECT_DOUBLE_EQ(engine::train_flops_per_token(config.layers(), config.sequence_length),
                   3 * (108 + 96 + 2 * 16));
  config.bias = false;  // biases are no matrix products
  EXPECT_DOUBLE_EQ(engine::train_flops_per_token(config.layers(), config.sequence_length),
                   3 * (108 + 96 + 2 * 16));
}

TEST(ConfigCheck, DefaultsAreGood) {
  const GPTConfig config;
  EXPECT_NO_THROW(config.check());
}

TEST(ConfigCheck, NamesWhatDoesNotGoTogether) {
  GPTConfig heads;
  heads.heads = 7;
  EXPECT_ERROR(heads.check(), "heads: 7 does not divide width 768");
  GPTConfig length;
  length.sequence_length = 2049;
  EXPECT_ERROR(length.check(), "sequence_length: 2049 is above max_position_embeddings 2048");
  length.sequence_length = 2048;
  EXPECT_NO_THROW(length.check());
  GPTConfig micro;
  micro.batch_size = 4;
  micro.micro_batch_size = 5;
  EXPECT_ERROR(micro.check(), "micro_batch_size: 5 is above batch_size 4");
  micro.micro_batch_size = 4;
  EXPECT_NO_THROW(micro.check());
}

TEST(ConfigCheck, ModelWhoseSizeOverflowsIsRefused) {
  for (const char* key : {"width", "depth", "vocab_size", "max_position_embeddings"}) {
    GPTConfig config;
    config.heads = 1;
    const auto load = [&] {
      const auto options = config.options();
      set_option(find_option(options, key), "2305843009213693952");  // 2^61
      config.check();
    };
    EXPECT_ERROR(load(), key);
  }
}

// The command for models larger than memory, on CPUs with bf16 and on others.
TEST(Readme, A590mModelTrainsInThreeGigabytes) {
  GPTConfig config;
  config.width = 1536;
  config.depth = 18;
  config.heads = 12;
  config.vocab_size = 50257;
  config.max_position_embeddings = 2048;
  config.sequence_length = 1024;
  config.batch_size = 8;
  config.storage.memory_gb = 3;
  const auto plenty = [](const Path&) { return uint64_t{1} << 50; };
  for (const auto precision : {engine::Precision::kFp32, engine::Precision::kBf16}) {
    const auto plan = engine::make_plan(config.layers(), precision, config.run_size(true),
                                        config.storage, "out", {}, 0, plenty);
    EXPECT_EQ(plan.refusal, "") << engine::precision_name(precision);
  }
}

}  // namespace
}  // namespace gigagpt
