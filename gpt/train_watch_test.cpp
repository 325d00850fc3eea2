// Runs that leave out batches, keep their best checkpoint, or end early.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine/run/checkpoint.h"
#include "engine/run/watch.h"
#include "gpt/data.h"
#include "gpt/testing.h"
#include "gpt/train.h"

namespace gigagpt {
namespace {

namespace fs = std::filesystem;

TEST(SpikeDetector, KnowsWhatDoesNotBelong) {
  engine::SpikeDetector spikes(8);
  std::mt19937_64 random(1);
  std::normal_distribution<double> noise;
  const auto add = [&](int count) {
    for (int i = 0; i < count; ++i) spikes.add(3 + 0.1 * noise(random), 1 + 0.2 * noise(random));
  };
  add(31);
  EXPECT_EQ(spikes.judge(100, 1), "") << "too little is known";
  add(69);
  EXPECT_EQ(spikes.judge(3.5, 1.5), "");
  EXPECT_EQ(spikes.judge(0.1, 0.3), "") << "better is no spike";
  EXPECT_NE(spikes.judge(4.5, 1).find("the loss, 4.5000, is"), std::string::npos);
  EXPECT_NE(spikes.judge(3, 50).find("the gradient's norm, 50, is"), std::string::npos);
  EXPECT_EQ(spikes.judge(3, 4), "") << "another level of norms, as in a warm-up, is none";
  // Others among those before it change little: the median is robust.
  for (int i = 0; i < 9; ++i) spikes.add(90, 90);
  EXPECT_NE(spikes.judge(4.5, 1), "");
}

TEST(SpikeDetector, TakesWhatHardlyVaries) {
  engine::SpikeDetector spikes(8);
  for (int i = 0; i < 64; ++i) spikes.add(2, 0);
  EXPECT_EQ(spikes.judge(2.001, 0), "");
  EXPECT_NE(spikes.judge(2.1, 0), "");
}

// A run of 200 steps of which one has a batch of random tokens.
class Spike : public Training {
 protected:
  static constexpr int64_t kSpike = 120;

  Spike() {
    config_.num_steps = 200;
    config_.saves.checkpoint_steps = 50;
    config_.saves.keep_checkpoints = 0;
    config_.eval_steps = 200;
    const int64_t tokens = config_.num_steps * config_.batch_size * config_.sequence_length * 2 + 1;
    write_dataset(config_.dataset, 31, tokens);
    write_spoiled(config_, kSpike, out("spoiled"));
  }

  // Returns the steps as they were logged in this part of the run.
  std::vector<formats::StepMetrics> run(const std::string& name, const std::string& on_spike,
                                        int64_t stop_after = 0) {
    config_.out_dir = out(name).string();
    config_.dataset = out(on_spike == "clean" ? "data" : "spoiled").string();
    config_.watch.on_spike = on_spike == "clean" ? "warn" : on_spike;
    config_.saves.checkpoint_path = "latest";
    std::vector<formats::StepMetrics> log;
    notes_.clear();
    TrainEvents events = quiet(&log, stop_after);
    events.note = [this](const std::string& note) { notes_ += note + "\n"; };
    train(config_, {}, events);
    return log;
  }
  bool noted(const std::string& text) const { return notes_.find(text) != std::string::npos; }
  std::string last() const { return all_bytes(Path(config_.out_dir) / "checkpoint_200"); }
  std::string left_out() const { return read_text(Path(config_.out_dir) / "left_out.json"); }

  std::string notes_;
};

TEST_F(Spike, IsNotedSkippedOrGoneBackFrom) {
  const double clean = *run("clean", "clean").back().val_loss;
  EXPECT_FALSE(noted("standard deviations")) << notes_;
  run("warned", "warn");
  EXPECT_TRUE(noted("step 121: the loss, ")) << notes_;
  EXPECT_FALSE(fs::exists(out("warned") / "left_out.json"));

  const auto skipped = run("skipped", "skip");
  EXPECT_TRUE(noted("step 121: the loss, ") && noted("batch 120 is left out")) << notes_;
  EXPECT_EQ(left_out(), "{\"batches\":[120]}\n");
  ASSERT_EQ(skipped.size(), 200U) << "every step is made, with the batches after that one";
  EXPECT_NEAR(*skipped.back().val_loss / clean, 1, 0.005);

  const auto rewound = run("rewound", "rewind");
  EXPECT_TRUE(noted("going back to step 100; batches 116 to 120 are left out")) << notes_;
  EXPECT_EQ(left_out(), "{\"batches\":[116,117,118,119,120]}\n");
  ASSERT_EQ(rewound.size(), 220U) << "20 of them twice";
  EXPECT_NEAR(*rewound.back().val_loss / clean, 1, 0.005);
  EXPECT_EQ(formats::last_logged_step(config_.out_dir), 200);
}

TEST_F(Spike, RunsThatWereStoppedGoOnToTheSameBits) {
  for (const std::string mode : {"skip", "rewind"}) {
    run(mode, mode);
    const std::string expected = last(), batches = left_out();
    // Before the spike; after it, or on the way there again; and from the checkpoint before it.
    for (const int stop_after : {118, 121, 130}) {
      const std::string name = mode + std::to_string(stop_after);
      run(name, mode, stop_after);
      run(name, mode);
      EXPECT_TRUE(last() == expected) << name;
      EXPECT_EQ(left_out(), batches) << name;
    }
    const std::string killed = mode + "_killed";
    run(killed, mode, 130);
    for (const int64_t step : engine::checkpoint_steps(out(killed))) {
      if (step > 100) fs::remove_all(engine::checkpoint_directory(out(killed), step));
    }
    run(killed, mode);
    EXPECT_TRUE(last() == expected);
    // In another folder what was left out stays so.
    const std::string copied = mode + "_elsewhere";
    config_.out_dir = out(copied).string();
    config_.saves.checkpoint_path = (out(mode) / "checkpoint_150").string();
    train(config_, {}, quiet());
    EXPECT_TRUE(last() == expected);
    EXPECT_EQ(left_out(), batches);
  }
}

TEST_F(Spike, FileAndRamLeaveOutAlike) {
  run("ram", "skip");
  const std::string expected = read_text(out("ram") / "checkpoint_200/model.safetensors");
  config_.storage.store = out("model.store").string();
  run("file", "skip", 125);
  run("file", "skip");
  EXPECT_TRUE(read_text(out("file") / "checkpoint_200/model.safetensors") == expected);
  fs::remove(config_.storage.store);
  EXPECT_ERROR(run("no_way_back", "rewind"), "on_spike: the state of this run is in a file");
  config_.storage = {.store = "memory", .clip = "layer"};
  EXPECT_ERROR(run("by_layer", "skip"), "on_spike: with clip: layer");
}

TEST_F(Spike, ARunThatDoesNotRecoverEnds) {
  for (const std::string mode : {"skip", "rewind"}) {
    config_.optim.learning_rate = 1e30;
    EXPECT_ERROR(run(mode, mode), "leaving out batches has not helped 10 times");
    EXPECT_TRUE(noted("is not finite, first in layer")) << notes_;
  }
}

class Best : public Training {
 protected:
  // One batch is learned by heart, so what was not seen is soon worse.
  Best() {
    write_dataset(config_.dataset, 31, 6 * 12 + 1);
    std::mt19937_64 random(3);
    std::vector<uint16_t> ids(200);
    for (uint16_t& id : ids) id = uint16_t(random() % 31);
    File::create(Path(config_.dataset) / "val.bin").write(std::as_bytes(std::span(ids)));
    config_.num_steps = 100;
    config_.eval_steps = 5;
    config_.saves.keep_checkpoints = 1;
    config_.saves.checkpoint_steps = 10;
    config_.watch.keep_best = true;
  }
  static std::pair<int64_t, double> best_of(const std::vector<formats::StepMetrics>& log) {
    std::pair<int64_t, double> best{0, 1e30};
    for (const auto& step : log) {
      if (step.val_loss && *step.val_loss < best.second) best = {step.step, *step.val_loss};
    }
    return best;
  }
};

TEST_F(Best, IsKeptAndTheRunEndsWhenNothingIsBetter) {
  std::vector<formats::StepMetrics> log;
  train(config_, {}, quiet(&log));
  ASSERT_EQ(log.size(), 100U);
  const auto [best_step, best_loss] = best_of(log);
  ASSERT_LT(best_step, 60);
  EXPECT_EQ(log.back().best_step, best_step);
  EXPECT_EQ(log.back().best_val_loss, best_loss);
  EXPECT_EQ(formats::read_trainer_state(Path(config_.out_dir) / "best").step, best_step);
  EXPECT_EQ(engine::checkpoint_steps(config_.out_dir), (std::vector<int64_t>{best_step, 100}));
  EXPECT_EQ(engine::find_checkpoint(config_.out_dir + "/best"), Path(config_.out_dir) / "best");

  // With early_stopping, in one go or in two.
  config_.watch.early_stopping = 4;
  for (const int64_t stop_after : {0, 3, int(best_step) + 7}) {
    config_.out_dir = out("early" + std::to_string(stop_after)).string();
    config_.saves.checkpoint_path = "latest";
    if (stop_after > 0) train(config_, {}, quiet(nullptr, stop_after));
    log.clear();
    std::string notes;
    TrainEvents events = quiet(&log);
    events.note = [&](const std::string& note) { notes += note + "\n"; };
    train(config_, {}, events);
    EXPECT_EQ(log.back().step, best_step + 4 * 5);
    EXPECT_NE(notes.find("early_stopping: the best val_loss, "), std::string::npos) << notes;
    EXPECT_EQ(formats::read_trainer_state(Path(config_.out_dir) / "best").step, best_step);
    log.clear();
    train(config_, {}, events);
    EXPECT_TRUE(log.empty()) << "it has ended";
  }
}

TEST_F(Training, ClippingCanBeOff) {
  std::vector<formats::StepMetrics> log, clipped;
  config_.optim.max_gradient_norm = 0;
  train(config_, {}, quiet(&log));
  config_.out_dir = out("clipped").string();
  config_.optim.max_gradient_norm = 1e9;
  train(config_, {}, quiet(&clipped));
  for (size_t i = 0; i < log.size(); ++i) EXPECT_EQ(log[i].loss, clipped[i].loss);
}

}  // namespace
}  // namespace gigagpt
