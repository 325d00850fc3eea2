// The GPT against PyTorch fixtures (tools/reference.py) and against plain autograd, bit for bit.
#include "gpt/model.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/random.h"
#include "engine/run/step_testing.h"
#include "formats/safetensors.h"
#include "gpt/oracle_testing.h"
#include "gpt/testing.h"
#include "ops/ops.h"
#include "ops/testing.h"

namespace gigagpt {
namespace {

using at::Tensor;
using engine::MicroBatch;
using formats::SafetensorsReader;
using ops::f64;

// A fixture's tensor by name, as floats or int64.
Tensor read(const SafetensorsReader& fixture, const std::string& name) {
  const auto& info = fixture.info(name);
  if (info.dtype == "I64") {
    const auto bytes = fixture.bytes(name);
    return at::from_blob(const_cast<std::byte*>(bytes.data()), info.shape, at::kLong).clone();
  }
  if (info.dtype == "F64") {
    const auto bytes = fixture.bytes(name);
    return at::from_blob(const_cast<std::byte*>(bytes.data()), info.shape, at::kDouble).clone();
  }
  Tensor values = at::empty(info.shape, at::kFloat);
  fixture.read_floats(name, {values.data_ptr<float>(), size_t(values.numel())});
  return values;
}

// A parameter of ours from a group of the fixture, where q, k and v are apart.
Tensor read_parameter(const SafetensorsReader& fixture, const std::string& group,
                      const std::string& name) {
  const auto fused = name.find("proj_qkv");
  if (fused == std::string::npos) return read(fixture, group + "/" + name);
  std::vector<Tensor> parts;
  for (const char* part : {"proj_q", "proj_k", "proj_v"}) {
    parts.push_back(read(fixture, group + "/" + std::string(name).replace(fused, 8, part)));
  }
  return at::cat(parts, 0);
}

GPTConfig read_config(const SafetensorsReader& fixture) {
  GPTConfig config;
  const auto values = nlohmann::json::parse(fixture.metadata().at("config"));
  config.model = values.value("model", "gpt2");
  const auto options = config.options();
  for (const auto& [key, value] : values.items()) {
    set_option(find_option(options, key),
               value.is_string() ? value.get<std::string>() : value.dump());
  }
  return config;
}

std::vector<MicroBatch> read_batch(const SafetensorsReader& fixture, const GPTConfig& config,
                                   int64_t step) {
  std::vector<MicroBatch> batches;
  const Tensor tokens = read(fixture, "tokens")[step], labels = read(fixture, "labels")[step];
  for (int64_t i = 0; i < config.batch_size; i += config.micro_batch()) {
    const int64_t rows = std::min(config.micro_batch(), config.batch_size - i);
    batches.push_back({tokens.narrow(0, i, rows), labels.narrow(0, i, rows)});
  }
  return batches;
}

template <class Visit>
void for_each_parameter(engine::Store& store, Visit visit) {
  for (size_t i = 0; i < store.layer_count(); ++i) {
    for (const auto& param : store.layer(i).params) visit(store.layer(i).prefix + param.name);
  }
}

void load(engine::Store& store, const SafetensorsReader& fixture) {
  for_each_parameter(store, [&](const std::string& name) {
    const Tensor values = read_parameter(fixture, "weights", name).to(at::kFloat).contiguous();
    set_values(store, name, {values.data_ptr<float>(), size_t(values.numel())});
  });
}

struct FixtureCase {
  const char* name;
  const char* precision;
};

// The fixtures are computed in double, so all error is ours.
//
// fp32: values flow through about 12 L sums of at most 4 C + V terms, each adding a relative error
// of sqrt(terms) u on average and well below terms * u; with C = 24 and O(1) activations that is
// below 12 * 2 * 128 * 2^-24 = 1.8e-4 absolutely, and in practice 1e-6. 2e-5 separates a
// wrong formula (1e-2 and more) from rounding by orders of magnitude on both sides.
// bf16: every product rounds its inputs by up to u = 2^-8 relative; about 8 of them are chained on
// the way of a gradient, and independent errors add up as sqrt(8) u = 1.1e-2 of the values. Three
// times that covers the largest of some thousand elements. A llama also rounds queries and keys
// once they are turned, the gate and what it multiplies, and their product, in both of its blocks:
// 14 in all.
double tolerance(const GPTConfig& config) {
  if (config.precision == "fp32") return 2e-5;
  return 3 * std::sqrt(config.model == "llama" ? 14 : 8) * ops::kUnitBf16;
}

class Reference : public testing::TestWithParam<FixtureCase> {
 protected:
  Reference()
      : fixture_(Path(GIGAGPT_SOURCE_DIR) / "gpt/testdata" /
                 fmt::format("reference_{}.safetensors", GetParam().name)),
        config_(read_config(fixture_)) {
    config_.precision = GetParam().precision;
    gpt_.reset(new auto(make_gpt(config_, /*training=*/true)));
    load(gpt_->store, fixture_);
  }

  SafetensorsReader fixture_;
  GPTConfig config_;
  std::unique_ptr<engine::Runtime> gpt_;
};

TEST_P(Reference, Logits) {
  const Tensor tokens = read(fixture_, "tokens")[0];
  const Tensor logits = gpt_->executor.infer({tokens}, {});
  const Tensor expected = read(fixture_, "logits");
  EXPECT_GT(f64(expected).std().item<double>(), 0.1) << "a flat fixture would show nothing";
  ops::expect_close(logits, expected, tolerance(config_) * 2);
}

TEST_P(Reference, LossAndGradients) {
  const auto gradients =
      gpt_->executor.compute_gradients(read_batch(fixture_, config_, 0), 0, {}, {});
  EXPECT_NEAR(gradients->loss, read(fixture_, "loss")[0].item<double>(), tolerance(config_));
  for_each_parameter(gpt_->store, [&](const std::string& name) {
    SCOPED_TRACE(name);
    const Tensor expected = read_parameter(fixture_, "grads", name);
    const double size = expected.abs().max().item<double>();
    EXPECT_GT(size, 1e-4);
    ops::expect_close(tensor_of(gpt_->store, engine::Array::kGradient, name), expected,
                      tolerance(config_) * std::max(size, 0.05));
  });
}

// Adam divides by the root of the second moment, so an element whose gradient is mere rounding
// noise moves by up to the sum of the learning rates all the same. That is so for the biases of the
// keys, whose true gradient is zero (softmax ignores a shift of all scores); others may have single
// elements near it, so fp32 bounds the error of each by 1e-3 of the way that weights can move, and
// bf16 bounds the mean.
TEST_P(Reference, TenOptimizerSteps) {
  const Tensor losses = read(fixture_, "step_losses"), norms = read(fixture_, "step_grad_norms");
  const ops::UpdateRule rule = config_.optim.update_at(0, 1, 0).rule;
  double way = 0;
  for (int64_t step = 0; step < config_.num_steps; ++step) {
    const double lr = config_.optim.learning_rate_at(step, config_.num_steps);
    EXPECT_NEAR(lr, read(fixture_, "step_lrs")[step].item<double>(), 1e-12);
    const engine::Update update{
        .rule = rule, .lr = lr, .max_norm = config_.optim.max_gradient_norm, .step = step + 1};
    const auto gradients =
        *gpt_->executor.compute_gradients(read_batch(fixture_, config_, step), 0, update, {});
    const double norm = gradients.norm;
    gpt_->store.commit(update, norm);
    EXPECT_NEAR(gradients.loss, losses[step].item<double>(), tolerance(config_));
    EXPECT_NEAR(norm, norms[step].item<double>(), tolerance(config_) * norm);
    way += lr;
  }
  for_each_parameter(gpt_->store, [&](const std::string& name) {
    SCOPED_TRACE(name);
    const Tensor expected = read_parameter(fixture_, "after", name);
    const Tensor actual = tensor_of(gpt_->store, engine::Array::kMaster, name);
    const Tensor error = (f64(actual) - f64(expected)).abs();
    const bool keys = name.ends_with("proj_qkv.bias");
    if (keys) error.chunk(3)[1].zero_();
    if (config_.precision == "fp32")
      EXPECT_LE(error.max().item<double>(), 1e-3 * way);
    else
      EXPECT_LE(error.mean().item<double>(), 0.1 * way);
  });
}

INSTANTIATE_TEST_SUITE_P(PyTorch, Reference,
                         testing::Values(FixtureCase{"bias", "fp32"}, FixtureCase{"nobias", "fp32"},
                                         FixtureCase{"micro", "fp32"}, FixtureCase{"bias", "bf16"},
                                         FixtureCase{"nobias", "bf16"},
                                         FixtureCase{"micro", "bf16"}, FixtureCase{"mup", "fp32"},
                                         FixtureCase{"completep", "fp32"},
                                         FixtureCase{"mup", "bf16"}),
                         [](const auto& info) {
                           return std::string(info.param.name) + "_" + info.param.precision;
                         });
INSTANTIATE_TEST_SUITE_P(
    Transformers, Reference,
    testing::Values(FixtureCase{"llama", "fp32"}, FixtureCase{"llama3", "fp32"},
                    FixtureCase{"qwen2", "fp32"}, FixtureCase{"qwen3", "fp32"},
                    FixtureCase{"llama", "bf16"}, FixtureCase{"qwen3", "bf16"}),
    [](const auto& info) { return std::string(info.param.name) + "_" + info.param.precision; });

// Dropout on, T odd, head size 5, tied weights, micro-batches of unequal size.
TEST(GPT, EqualsThePlainAutogradOracleBitForBit) {
  at::manual_seed(1);
  for (const bool bias : {true, false}) {
    GPTConfig config = tiny_config("");
    config.heads = 4;
    config.sequence_length = 11;
    config.dropout = 0.2;
    config.bias = bias;
    expect_oracle_bits(config);
  }
}

// The mean is over the labels of the whole step, wherever the micro-batches are cut.
TEST(GPT, LabelsThatDoNotCountMakeNoDifferenceBetweenMicroBatches) {
  at::manual_seed(3);
  const GPTConfig config = tiny_config("");
  const int64_t T = config.sequence_length;
  const Tensor tokens = at::randint(0, config.vocab_size, {6, T}, at::kLong);
  const Tensor labels = at::randint(0, config.vocab_size, {6, T}, at::kLong);
  for (const int64_t row : {0, 1, 2})  // few in the first rows, all in the last
    labels[row].narrow(0, 0, T - 1 - row).fill_(ops::kIgnoredLabel);
  const engine::Model model = make_model(config);
  engine::Store store(config.layers(), {engine::Precision::kFp32, /*training=*/true});
  store.initialise(5, {});
  const auto compute = [&](int64_t rows) {
    std::vector<MicroBatch> batches;
    for (int64_t i = 0; i < 6; i += rows) {
      batches.push_back({tokens.narrow(0, i, rows), labels.narrow(0, i, rows)});
      batches.back().counted = (batches.back().target != ops::kIgnoredLabel).sum().item<double>();
    }
    return engine::Executor(model, store, {}).compute_gradients(batches, 1, {}, {});
  };
  const auto whole = compute(6);
  const Tensor wanted = tensor_of(store, engine::Array::kGradient, "wte.weight");
  for (const int64_t rows : {1, 2, 3}) {
    const auto cut = compute(rows);
    EXPECT_NEAR(cut->loss, whole->loss, 1e-6 * whole->loss);
    EXPECT_NEAR(cut->norm, whole->norm, 1e-5 * whole->norm);
    // Sums of at most 72 products of numbers below the gradient's own size, in another order.
    ops::expect_close(tensor_of(store, engine::Array::kGradient, "wte.weight"), wanted,
                      72 * ops::kUnit32 * wanted.abs().max().item<double>());
  }
}

TEST(GPT, MaskReplacesTheCausalOne) {
  const GPTConfig config = tiny_config("");
  auto gpt = make_gpt(config, /*training=*/false);
  gpt.store.initialise(5, {});
  const int64_t T = config.sequence_length;
  const Tensor tokens = at::randint(0, config.vocab_size, {1, T}, at::kLong);
  const Tensor causal = at::full({T, T}, -INFINITY).triu(1);
  const Tensor usual = gpt.executor.infer({tokens}, {});
  ops::expect_close(gpt.executor.infer({tokens, {}, causal}, {}), usual, 1e-6);
  const Tensor open = gpt.executor.infer({tokens, {}, at::zeros({T, T})}, {});
  EXPECT_GT((open - usual).abs().max().item<double>(), 1e-4) << "now the first sees the last";
}

TEST(GPT, InitialWeightsHaveTheirDistributions) {
  GPTConfig config = tiny_config("");
  config.width = 128;
  config.depth = 8;
  auto gpt = make_gpt(config, /*training=*/false);
  gpt.store.initialise(3, {});
  const auto deviation = [&](const std::string& name) {
    const auto values = gpt.store.read(engine::Array::kMaster, name);
    return std::sqrt(ops::sum_of_squares(values) / double(values.size()));
  };
  // 5 standard errors of a deviation over n values: 5 / sqrt(2 n) relative.
  const auto near = [](double std, double n) { return std * 5 / std::sqrt(2 * n); };
  const double residual = 0.02 / std::sqrt(16.0);
  EXPECT_NEAR(deviation("wte.weight"), 0.02, near(0.02, 31 * 128));
  EXPECT_NEAR(deviation("decoder.7.attn.proj_qkv.weight"), 0.02, near(0.02, 3 * 128 * 128));
  EXPECT_NEAR(deviation("decoder.3.attn.proj_output.weight"), residual, near(residual, 128 * 128));
  EXPECT_NEAR(deviation("decoder.0.ffn.proj.weight"), residual, near(residual, 4 * 128 * 128));
  EXPECT_EQ(deviation("decoder.0.ffn.proj.bias"), 0.0);
  EXPECT_EQ(deviation("decoder.0.ln_1.weight"), 1.0);
  config.parametrisation.residual_init_std = 0.0025;
  auto other = make_gpt(config, /*training=*/false);
  other.store.initialise(3, {});
  const auto values = other.store.read(engine::Array::kMaster, "decoder.0.ffn.proj.weight");
  EXPECT_NEAR(std::sqrt(ops::sum_of_squares(values) / double(values.size())), 0.0025,
              near(0.0025, 4 * 128 * 128));
}

}  // namespace
}  // namespace gigagpt
