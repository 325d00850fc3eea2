// Forms of state and ways of clipping, through whole runs.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/run/checkpoint.h"
#include "engine/state/state_file.h"
#include "formats/safetensors.h"
#include "gpt/data.h"
#include "gpt/eval.h"
#include "gpt/model.h"
#include "gpt/testing.h"
#include "gpt/train.h"

namespace gigagpt {
namespace {

class TrainingState : public Training {
 protected:
  TrainingState() {
    config_.width = 40;  // some matrices have their moments in 8 bits, some are too small
    config_.precision = "bf16";
    config_.dropout = 0.1;
    config_.eval_steps = 3;
    config_.batch_size = 12;  // three micro-batches
  }
  std::vector<formats::StepMetrics> run(const std::string& name, int64_t stop_after = 0) {
    config_.out_dir = out(name).string();
    config_.saves.checkpoint_path = "latest";
    std::vector<formats::StepMetrics> log;
    train(config_, {}, quiet(&log, stop_after));
    return log;
  }
  std::string weights() const {
    return read_text(Path(config_.out_dir) / "checkpoint_8" / "model.safetensors");
  }
};

void expect_same(const std::vector<formats::StepMetrics>& a,
                 const std::vector<formats::StepMetrics>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].loss, b[i].loss) << "step " << a[i].step;
    EXPECT_EQ(a[i].grad_norm, b[i].grad_norm) << "step " << a[i].step;
    EXPECT_EQ(a[i].val_loss, b[i].val_loss) << "step " << a[i].step;
  }
}

TEST_F(TrainingState, FileAndRamHaveTheSameBitsAndRunsGoOn) {
  for (const char* state : {"full", "compact"}) {
    for (const char* clip : {"global", "layer"}) {
      SCOPED_TRACE(std::string(state) + " " + clip);
      config_.storage = {.store = "memory", .state = state, .clip = clip};
      const std::string name = std::string(state) + "_" + clip;
      const auto resident = run(name + "_ram");
      const std::string expected = weights();
      auto stopped = run(name + "_ram_stopped", 4);
      for (const auto& step : run(name + "_ram_stopped")) stopped.push_back(step);
      expect_same(stopped, resident);
      EXPECT_TRUE(weights() == expected);
      for (const char* recompute : {"on", "off"}) {
        config_.storage.recompute = recompute;
        config_.storage.store = out(name + recompute + ".store").string();
        auto streamed = run(name + recompute, 3);
        for (const auto& step : run(name + recompute)) streamed.push_back(step);
        expect_same(streamed, resident);
        EXPECT_TRUE(weights() == expected);
      }
    }
  }
}

// The checkpoint of a compact state has its very weights, in half the bytes.
TEST_F(TrainingState, CompactCheckpointsAreInBf16) {
  config_.storage = {.store = "memory", .state = "compact"};
  run("compact");
  const Path checkpoint = Path(config_.out_dir) / "checkpoint_8";
  const formats::SafetensorsReader reader(checkpoint / "model.safetensors");
  for (const auto& tensor : reader.tensors()) {
    EXPECT_EQ(tensor.dtype, tensor.shape.size() < 2 ? "F32" : "BF16") << tensor.name;
  }
  config_.out_dir = out("unused").string();
  auto gpt = make_gpt(config_, /*training=*/false);
  engine::load_checkpoint(checkpoint, gpt.store, false, 0, {});
  const TokenData data(config_, "val");
  EXPECT_TRUE(
      std::isfinite(evaluate(gpt.executor, data, config_, [](double) { return true; })->loss));
}

// With clip: layer a file is good for nothing in the middle of a run: the newest checkpoint is.
TEST_F(TrainingState, ClipByLayerGoesOnFromACheckpointAfterACrash) {
  config_.storage = {.store = out("x.store").string(), .state = "compact", .clip = "layer"};
  config_.saves.checkpoint_steps = 2;
  config_.out_dir = out("x").string();
  TrainEvents events = quiet();
  events.step_done = [](const formats::StepMetrics& metrics) {
    if (metrics.step == 5) throw std::runtime_error("a crash");
  };
  config_.eval_steps = 0;
  EXPECT_THROW(train(config_, {}, events), std::runtime_error);
  EXPECT_FALSE(engine::StateFile::peek(config_.storage.store));
  const auto log = run("x");
  EXPECT_EQ(log.front().step, 5);
  EXPECT_EQ(log.back().step, 8);
  config_.storage.clip = "global";
  EXPECT_ERROR(run("x"), "is of a run with clip: layer");
}

TEST_F(TrainingState, CompactLearnsLikeFull) {
  config_.dropout = 0;
  config_.num_steps = 60;
  config_.eval_steps = 60;
  config_.storage.store = "memory";
  const double full = *run("full").back().val_loss;
  config_.storage.state = "compact";
  const double compact = *run("compact").back().val_loss;
  config_.storage.clip = "layer";
  const double by_layer = *run("layer").back().val_loss;
  EXPECT_LT(full, 2.5) << "of 3.4 at first";
  EXPECT_NEAR(compact, full, 0.1);
  EXPECT_LT(by_layer, 2.7);
}

// As somebody adds it to a model, who knows nothing of checkpoints.
struct Gain : engine::LayerOf<engine::Declaration> {
  explicit Gain(int64_t width)
      : LayerOf({"gain", "gain.", {}}),
        gain(add("weight", {width}, {.init = engine::constant(2)})) {}
  at::Tensor forward(const engine::Weights& w, const at::Tensor& x,
                     const engine::Pass&) const override {
    return x * w[gain].value;
  }
  const engine::Param gain;
};

TEST_F(Training, AParameterThatNobodyNamedForCheckpointsIsSavedAndLoaded) {
  const auto make = [&](int gains) {
    auto model = make_model(config_);
    for (int i = 0; i < gains; ++i)
      model.insert(model.begin() + 1, std::make_unique<Gain>(config_.width));
    return engine::Runtime(std::move(model), "fp32", config_.run_size(true), config_.storage,
                           config_.out_dir, {}, {});
  };
  auto first = make(1);
  first.store.initialise(1, {});
  const auto batches = TokenData(config_, "train").train_batch(0);
  const engine::Update update{.lr = 0.1, .step = 1};
  first.store.commit(update, first.executor.compute_gradients(batches, 1, update, {})->norm);
  engine::CheckpointRules rules;
  rules.out_dir = config_.out_dir;
  rules.size = config_.run_size(true);
  engine::Checkpoints checkpoints(rules);
  const Path saved = checkpoints.save(1, first.store, /*best=*/false, [](const Path&) {}, {});
  const auto learned = first.store.read(engine::Array::kMaster, "gain.weight");
  EXPECT_NE(learned, std::vector<float>(size_t(config_.width), 2.0F));
  auto second = make(1);
  engine::load_checkpoint(saved, second.store, /*optimizer=*/true, 1, {});
  for (const auto kept : {engine::Array::kMaster, engine::Array::kExpAvg})
    EXPECT_EQ(second.store.read(kept, "gain.weight"), first.store.read(kept, "gain.weight"));
}

}  // namespace
}  // namespace gigagpt
