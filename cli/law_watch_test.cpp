// Runs that are held against the curve of others like them, and such in which something is wrong.
#include "cli/law_watch.h"

#include <gtest/gtest.h>

#include <random>

#include "cli/law.h"
#include "gpt/law_file.h"
#include "gpt/model.h"
#include "gpt/testing.h"

namespace gigagpt::cli {
namespace {

// Each token follows from the one before it, but for a third, which are drawn.
void write_text(const Path& folder, uint64_t seed, bool random_only) {
  constexpr int64_t kVocabulary = 31;
  write_dataset(folder, kVocabulary, 1);
  std::mt19937_64 random(seed);
  std::vector<uint16_t> ids = {0};
  while (ids.size() < 300'000) {
    const bool drawn = random_only || random() % 3 == 0;
    ids.push_back(uint16_t(drawn ? random() % kVocabulary : (ids.back() * 7U + 3U) % kVocabulary));
  }
  for (const char* split : {"train.bin", "val.bin"}) {
    const auto tokens = std::span(ids).first(split[0] == 't' ? ids.size() : 4000);
    File::create(folder / split).write(std::as_bytes(tokens));
  }
}

class Normal : public testing::Test {
 protected:
  Normal() {
    write_text(folder_.path() / "data", 1, false);
    write_text(folder_.path() / "noise", 2, true);
  }

  GPTConfig config(int64_t width, int64_t seed) {
    GPTConfig config = tiny_config(folder_.path());
    config.width = width, config.depth = 1;
    config.sequence_length = config.max_position_embeddings = 16;
    config.batch_size = 8, config.micro_batch_size = 8;
    config.seed = seed;
    const double parameters = double(engine::parameter_count(config.layers()));
    config.num_steps = std::llround(20 * parameters / (8 * 16));
    config.eval_steps = config.num_steps;
    config.optim.warmup_steps = config.num_steps / 10;
    config.optim.learning_rate = 0.04;
    config.optim.lr_decay = "linear";
    config.parametrisation.mup_base_width = 16;
    config.saves.checkpoint_path = "latest";
    config.saves.load_weights_only = "false";
    config.out_dir = (folder_.path() / fmt::format("{}-{}", width, seed)).string();
    return config;
  }

  // Trains until `stop` (0: to the end); adds what was said to `said`.
  void run(const GPTConfig& config, LawWatch* watch = nullptr, int64_t stop = 0) {
    int64_t done = 0;
    TrainEvents events = quiet();
    events.step_done = [&](const formats::StepMetrics& metrics) { done = metrics.step; };
    events.stop_wanted = [&] { return stop > 0 && done >= stop; };
    events.measured = [&](formats::StepMetrics& metrics) {
      if (watch == nullptr) return;
      if (const auto text = watch->measured(metrics)) said_.push_back(*text);
      EXPECT_TRUE(metrics.expected_loss);
    };
    train(config, {}, events);
  }

  // The law of runs of four sizes, with two seeds each.
  void fit() {
    LawArguments arguments;
    arguments.action = LawArguments::Action::kFit;
    for (const int64_t width : {8, 12, 16, 24}) {
      for (const int64_t seed : {1, 2}) {
        run(config(width, seed));
        arguments.runs.push_back(config(width, seed).out_dir);
      }
    }
    arguments.out = law_.string();
    testing::internal::CaptureStdout();
    fit_runs(arguments);
    testing::internal::GetCapturedStdout();
  }

  GPTConfig watched(int64_t width, int64_t seed) {
    GPTConfig watched = config(width, seed);
    watched.watch.law = law_.string();
    return watched;
  }

  TemporaryDirectory folder_;
  Path law_ = folder_.path() / "law.json";
  std::vector<std::string> said_;
};

TEST_F(Normal, RunsAreToldFromSuchInWhichSomethingIsWrong) {
  fit();
  for (const int64_t seed : {11, 12, 13}) {
    LawWatch watch(watched(16, seed));
    run(watched(16, seed), &watch);
    EXPECT_TRUE(said_.empty()) << said_[0];
  }
  // A learning rate of eight times as much.
  GPTConfig fast = watched(16, 14);
  fast.optim.learning_rate *= 8;
  LawWatch of_fast(fast);
  run(fast, &of_fast);
  ASSERT_EQ(said_.size(), 1U);
  EXPECT_NE(said_[0].find("above what is expected"), std::string::npos) << said_[0];

  // A twentieth of the steps see random labels. That is said while they do, and not again by the
  // run that goes on from there.
  said_.clear();
  GPTConfig spoiled = watched(16, 15);
  const int64_t half = spoiled.num_steps / 2, bad = half + spoiled.num_steps / 20;
  LawWatch first(spoiled), second(spoiled), third(spoiled);
  run(spoiled, &first, half);
  EXPECT_TRUE(said_.empty());
  GPTConfig noise = spoiled;
  noise.dataset = (folder_.path() / "noise").string();
  run(noise, &second, bad);
  ASSERT_EQ(said_.size(), 1U);
  run(spoiled, &third);
  EXPECT_EQ(said_.size(), 1U);
  bool expected_is_logged = true;
  std::istringstream lines(read_text(Path(spoiled.out_dir) / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);)
    expected_is_logged &= line.find("\"expected_loss\":") != std::string::npos;
  EXPECT_TRUE(expected_is_logged);
}

TEST_F(Normal, ALawThatSaysNothingOfTheRunIsRefused) {
  FittedLaw law{{{"mine", 3e14, 0.21, 1.1}, {}, {}, 0.003}, {}, {"another text", "muP", 16}};
  for (int i = 0; i < 4; ++i) law.runs.push_back({"", 1e12 * (i + 1), 1e5, 2e6, 4.0 - i / 10.0});
  write_law(law_, law);
  EXPECT_ERROR(LawWatch(watched(16, 1)), "and not another text");
  law.kind.data = formats::fingerprint(folder_.path() / "data" / "train.bin");
  write_law(law_, law);
  EXPECT_ERROR(LawWatch(watched(16, 1)), "has no curve");
  GPTConfig short_run = watched(16, 1);
  short_run.num_steps /= 4;
  EXPECT_ERROR(LawWatch{short_run},
               "is of runs that see 20 tokens a parameter, and this one sees 4.98");
}

}  // namespace
}  // namespace gigagpt::cli
