// Layer by layer equals plain autograd bit for bit, whatever the window and whether outputs are
// kept or computed again; each layer runs as often as it should.
#include "engine/run/executor.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "engine/model/autoencoder.h"
#include "engine/model/oracle.h"
#include "engine/run/step_testing.h"
#include "ops/optimizers/sgd.h"
#include "ops/testing.h"

namespace gigagpt::engine {
namespace {

using ops::expect_same_bits;

std::vector<MicroBatch> five_batches(int64_t step) {
  at::manual_seed(uint64_t(100 + step));
  std::vector<MicroBatch> batches;
  for (const int64_t rows : {3, 2, 3, 1, 3}) {  // of unequal size: shares of the loss differ
    const at::Tensor x = at::randn({rows, 6});
    batches.push_back({x, x + 1});
  }
  return batches;
}

struct Mode {
  int64_t window;
  bool recompute;
};

class ExecutorModes : public testing::TestWithParam<Mode> {};

TEST_P(ExecutorModes, EqualsTheOracleForSeveralSteps) {
  const Model model = make_autoencoder(6, 5, 3);
  Store store(specs_of(model), {Precision::kFp32, /*training=*/true});
  store.initialise(7, {});
  Executor executor(model, store, {GetParam().window, GetParam().recompute});
  for (int64_t step = 0; step < 4; ++step) {
    const auto batches = five_batches(step);
    const uint64_t key = mix(9, uint64_t(step));
    auto values = copy_values(store);
    const auto oracle = run_oracle(model, values, batches, key);
    const Update update{.lr = 0.01, .max_norm = 0.5, .step = step + 1};
    const auto gradients = executor.compute_gradients(batches, key, update, {});
    ASSERT_TRUE(gradients.has_value());
    EXPECT_EQ(gradients->loss, oracle.loss);
    for (const auto& [name, grad] : oracle.grads) {
      SCOPED_TRACE(name);
      expect_same_bits(tensor_of(store, Array::kGradient, name), grad);
    }
    store.commit(update, gradients->norm);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExecutorModes,
                         testing::Values(Mode{0, false}, Mode{1, false}, Mode{2, false},
                                         Mode{5, false}, Mode{9, false}, Mode{0, true},
                                         Mode{1, true}, Mode{2, true}));

// Adds the mean square of what passes to the loss.
class Penalty : public LayerOf<Declaration> {
 public:
  explicit Penalty(const std::string& prefix)
      : LayerOf({"penalty", prefix, {}}), scale_(add("scale", {1}, {.init = constant(2)})) {}
  at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass& pass) const override {
    const at::Tensor y = x * w[scale_].value;
    pass.add_loss("square", y.square().mean(), 0.3);
    pass.add_loss("constant", at::ones({}), 5);
    return y;
  }

 private:
  Param scale_;
};

TEST_P(ExecutorModes, AddsTheLossesOfLayers) {
  Model model = make_autoencoder(6, 5, 2);
  model.insert(model.begin() + 1, std::make_unique<Penalty>("a."));
  model.insert(model.begin() + 3, std::make_unique<Penalty>("b."));
  Store store(specs_of(model), {Precision::kFp32, /*training=*/true});
  store.initialise(7, {});
  const auto batches = five_batches(0);
  const auto values = copy_values(store);
  const auto oracle = run_oracle(model, values, batches, 3);
  Executor executor(model, store, {GetParam().window, GetParam().recompute});
  const auto gradients = executor.compute_gradients(batches, 3, {}, {});
  EXPECT_EQ(gradients->loss, oracle.loss);
  EXPECT_EQ(gradients->added_losses, oracle.added_losses);
  // Once from each of the two layers.
  EXPECT_DOUBLE_EQ(gradients->added_losses.at("constant"), 2);
  for (const auto& [name, grad] : oracle.grads) {
    SCOPED_TRACE(name);
    expect_same_bits(tensor_of(store, Array::kGradient, name), grad);
  }
  // The slope of the sum that is minimised.
  const auto sum_at = [&](float scale) {
    auto moved = values;
    moved["a.scale"] = at::full({1}, scale);
    const auto there = run_oracle(model, moved, batches, 3);
    return there.loss + 0.3 * there.added_losses.at("square");
  };
  const double slope = (sum_at(2.0625F) - sum_at(1.9375F)) / 0.125;
  EXPECT_NEAR(oracle.grads.at("a.scale").item<double>(), slope, 0.01 * std::abs(slope));
}

// The store's own clipping and update against plain tensors.
TEST(Update, ClipsByTheGlobalNormAndDecaysMatricesOnly) {
  const Model model = make_autoencoder(6, 5, 1);
  Store store(specs_of(model), {Precision::kFp32, /*training=*/true});
  store.initialise(3, {});
  Executor executor(model, store, {});
  auto values = copy_values(store);
  Update update{
      .rule = {&ops::Sgd::kInfo, {.beta1 = 0, .weight_decay = 0.5}}, .lr = 0.1, .step = 1};
  const double norm = executor.compute_gradients(five_batches(0), 1, update, {})->norm;
  double squares = 0;
  std::map<std::string, at::Tensor> grads;
  for (const auto& [name, value] : values) {
    grads[name] = tensor_of(store, Array::kGradient, name);
    squares += ops::f64(grads[name]).square().sum().item<double>();
  }
  const double max_norm = 0.25 * std::sqrt(squares);
  update.max_norm = max_norm;
  store.commit(update, norm);
  EXPECT_NEAR(norm, std::sqrt(squares), 1e-12 * norm);
  for (const auto& [name, value] : values) {
    const double decay = value.dim() >= 2 ? 0.5 : 0.0;
    const at::Tensor expected =
        ops::f64(value) * (1 - 0.1 * decay) - 0.1 * 0.25 * ops::f64(grads[name]);
    ops::expect_close(tensor_of(store, Array::kMaster, name), expected, 4 * ops::kUnit32 * 2);
  }
}

TEST(Executor, BitsDoNotDependOnTheMode) {
  const auto train = [](Execution options) {
    const Model model = make_autoencoder(6, 5, 3);
    Store store(specs_of(model), {Precision::kBf16, /*training=*/true});
    store.initialise(7, {});
    Executor executor(model, store, options);
    for (int64_t step = 0; step < 3; ++step) {
      train_step(executor, store, five_batches(step), uint64_t(step),
                 {.lr = 0.01, .max_norm = 0.5, .step = step + 1}, {});
    }
    return copy_values(store);
  };
  const auto expected = train({0, false});
  for (const Execution& options : {Execution{2, true}, {1, false}, {0, true}}) {
    for (const auto& [name, value] : train(options)) expect_same_bits(value, expected.at(name));
  }
}

// Counts calls of forward.
class Counting : public Layer {
 public:
  Counting(std::unique_ptr<Layer> inner, int* calls) : inner_(std::move(inner)), calls_(calls) {}
  const LayerSpec& spec() const override { return inner_->spec(); }
  at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass& pass) const override {
    ++*calls_;
    return inner_->forward(w, x, pass);
  }

 private:
  std::unique_ptr<Layer> inner_;
  int* calls_;
};

TEST(Executor, RunsEachLayerAsOftenAsItShould) {
  Model model = make_autoencoder(6, 5, 2);
  std::vector<int> calls(model.size());
  for (size_t i = 0; i < model.size(); ++i) {
    model[i] = std::make_unique<Counting>(std::move(model[i]), &calls[i]);
  }
  Store store(specs_of(model), {Precision::kFp32, /*training=*/true});
  const auto batches = five_batches(0);  // five
  Executor(model, store, {0, false}).compute_gradients(batches, 1, {}, {});
  EXPECT_EQ(calls, (std::vector<int>{5, 5, 5, 5}));
  calls.assign(4, 0);
  Executor(model, store, {2, true}).compute_gradients(batches, 1, {}, {});
  EXPECT_EQ(calls, (std::vector<int>{10, 10, 10, 5})) << "the last layer needs no second run";
  calls.assign(4, 0);
  Executor(model, store, {}).evaluate(batches, {});
  EXPECT_EQ(calls, (std::vector<int>{5, 5, 5, 5}));
}

TEST(Executor, ProgressRisesToOneAndCanStopTheStep) {
  const Model model = make_autoencoder(6, 5, 2);
  Store store(specs_of(model), {Precision::kFp32, /*training=*/true});
  std::vector<double> shares;
  Executor executor(model, store, {2, true});
  executor.compute_gradients(five_batches(0), 1, {}, [&](double share) {
    shares.push_back(share);
    return true;
  });
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_EQ(shares.front(), 0.0);
  EXPECT_DOUBLE_EQ(shares.back(), 1.0);
  int told = 0;
  EXPECT_FALSE(
      executor.compute_gradients(five_batches(0), 1, {}, [&](double) { return ++told < 3; }));
  EXPECT_EQ(told, 3);
}

TEST(Executor, EvaluationHasNoNoiseAndNoGradients) {
  const Model model = make_autoencoder(6, 5, 2);
  Store store(specs_of(model), {Precision::kFp32, /*training=*/false});
  store.initialise(1, {});
  Executor executor(model, store, {});
  const auto batches = five_batches(0);
  const auto losses = executor.evaluate(batches, {});
  EXPECT_EQ(losses.size(), batches.size());
  EXPECT_EQ(losses, executor.evaluate(batches, {}));
  EXPECT_TRUE(executor.evaluate(batches, [](double share) { return share < 0.5; }).empty());
  EXPECT_EQ(losses[1], executor.evaluate({&batches[1], 1}, {})[0]);
}

TEST(Executor, NamesTheFirstLayerThatIsNotFinite) {
  const Model model = make_autoencoder(6, 5, 3);
  Store store(specs_of(model), {Precision::kFp32, /*training=*/true});
  store.initialise(1, {});
  auto scale = store.read(Array::kMaster, "gates.1.scale");
  scale[2] = std::numeric_limits<float>::infinity();
  set_values(store, "gates.1.scale", scale);
  try {
    Executor(model, store, {}).compute_gradients(five_batches(0), 1, {}, {});
    FAIL() << "no error";
  } catch (const NonFinite& error) {
    EXPECT_STREQ(error.what(), "the loss is not finite, first in layer gate");
  }
}

// Whose gradient is infinite where its output is not.
class Root : public LayerOf<Declaration> {
 public:
  explicit Root(int64_t width) : LayerOf({"root", "root.", {}}), square_(add("square", {width})) {}
  at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass&) const override {
    return x + w[square_].value.sqrt();
  }

 private:
  Param square_;
};

TEST(Update, RefusesGradientsThatAreNotFiniteBeforeChangingAnything) {
  Model model = make_autoencoder(6, 5, 3);
  model.insert(model.begin() + 1, std::make_unique<Root>(5));
  for (const GradientForm form : {GradientForm::kFp32, GradientForm::kNone}) {
    Store store(specs_of(model), {Precision::kFp32, /*training=*/true, false, form});
    store.initialise(1, {});
    const auto before = copy_values(store);
    Executor executor(model, store, {.window = 0});
    const Update step{.lr = 0.1, .step = 1};
    try {
      train_step(executor, store, five_batches(0), 1, step, {});
      FAIL() << "no error";
    } catch (const NonFinite& error) {
      EXPECT_STREQ(error.what(), "the gradient is not finite, first in layer root");
    }
    // Clipping layer by layer has updated what comes after it.
    for (const auto& [name, value] : copy_values(store)) {
      const bool later = form == GradientForm::kNone && (name == "out.bias" || name[0] == 'g');
      EXPECT_EQ(at::equal(value, before.at(name)), !later) << name;
    }
  }
}

// The whole of clip: layer in plain operations: every gradient from the weights before the step,
// and each layer's scaled down by itself.
TEST(Update, ByLayersEqualsThePlainFormulas) {
  const Model model = make_autoencoder(6, 5, 2);
  Store store(specs_of(model), {Precision::kFp32, true, false, GradientForm::kNone});
  store.initialise(1, {});
  Executor executor(model, store, {.window = 0, .recompute = true});
  const double max_norm = 0.5, lr = 0.1;
  const auto before = copy_values(store);
  const auto oracle = run_oracle(model, before, five_batches(0), 1);
  const auto result = train_step(executor, store, five_batches(0), 1,
                                 {.rule = {&ops::Sgd::kInfo, {.beta1 = 0, .weight_decay = 0}},
                                  .lr = lr,
                                  .max_norm = max_norm,
                                  .step = 1},
                                 {});
  EXPECT_EQ(result->loss, oracle.loss);
  double all = 0;
  for (const auto& layer : specs_of(model)) {
    double square_sum = 0;
    for (const ParamSpec& param : layer.params) {
      square_sum +=
          ops::f64(oracle.grads.at(layer.prefix + param.name)).square().sum().item<double>();
    }
    all += square_sum;
    const double scale = std::min(1.0, max_norm / std::sqrt(square_sum));
    for (const ParamSpec& param : layer.params) {
      const std::string name = layer.prefix + param.name;
      const at::Tensor expected =
          ops::f64(before.at(name)) - lr * scale * ops::f64(oracle.grads.at(name));
      // Two products and a sum in fp32 of numbers below 4.
      ops::expect_close(tensor_of(store, Array::kMaster, name), expected, 4 * 4 * ops::kUnit32);
    }
  }
  EXPECT_NEAR(result->norm, std::sqrt(all), 1e-5 * std::sqrt(all));
  EXPECT_EQ(store.step(), 1);
}

}  // namespace
}  // namespace gigagpt::engine
