// Training on several systems, as processes of this machine: against one system, against itself,
// from RAM and from files, stopped and gone on with on other numbers of systems, and killed. The
// parent computes nothing, so that it can fork.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <random>
#include <thread>

#include "engine/plan/forecast.h"
#include "engine/run/checkpoint.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "gpt/data.h"
#include "gpt/eval.h"
#include "gpt/model.h"
#include "gpt/systems_testing.h"

namespace gigagpt {
namespace {

using engine::Cluster;
using nlohmann::json;

std::vector<json> metrics_of(const Path& out) {
  std::vector<json> rows;
  std::ifstream file(out / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) rows.push_back(json::parse(line));
  return rows;
}

// How far apart two checkpoints' weights are, at most.
double distance(const Path& a, const Path& b) {
  const formats::SafetensorsReader first(a / "model.safetensors"), second(b / "model.safetensors");
  double most = 0;
  for (const auto& info : first.tensors()) {
    const std::string& name = info.name;
    std::vector<float> x(size_t(first.info(name).count())), y(x.size());
    first.read_floats(name, x);
    second.read_floats(name, y);
    for (size_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(double(x[i]) - y[i]));
  }
  return most;
}

// N systems add the micro-batches' gradients in another order than one. M = 8 of them in fp32: an
// element differs by at most 2 M eps G, with eps = 2^-24 and G the sum of its parts' magnitudes,
// here below 4 (norms are below 2, as is checked, and parts are shares of batches like these).
// AdamW with an epsilon of 0.01 passes on at most 2 lr / 0.01 of a difference a step (both moments
// change, and m is at most sqrt(v)/ sqrt(1 - beta2) there). Weights that differ change later
// gradients by less than their own size at these rates; twice the sum is allowed for that.
TEST_F(SystemsTest, EqualOneSystemWithinRounding) {
  config_.optim.adam_epsilon = 1e-2;
  config_.optim.learning_rate = 1e-3;
  config_.optim.warmup_steps = 0;
  config_.eval_steps = 3;
  const double eps = 0x1p-24, steps = double(config_.num_steps);
  const double gradient = 2 * 8 * eps * 6;
  const double weight =
      2 * steps * (2 * config_.optim.learning_rate / config_.optim.adam_epsilon) * gradient;
  const GPTConfig one = config("one", 1);
  ASSERT_TRUE(run(one));
  const auto expected = metrics_of(one.out_dir);
  for (const int64_t systems : {2, 3, 4}) {
    for (const bool file : {false, true}) {
      const GPTConfig many = config(fmt::format("{}{}", systems, file), systems, file);
      SCOPED_TRACE(many.out_dir);
      ASSERT_TRUE(run(many));
      const auto rows = metrics_of(many.out_dir);
      ASSERT_EQ(rows.size(), expected.size());
      for (size_t i = 0; i < rows.size(); ++i) {
        const double norm = expected[i]["grad_norm"];
        EXPECT_LT(norm, 3);
        // The norm of a difference is at most its largest element times the root of how many there
        // are; a loss moves by the gradient's norm times that of the weights' difference.
        const double root = std::sqrt(1e5);
        EXPECT_NEAR(rows[i]["grad_norm"], norm, root * (gradient + weight));
        EXPECT_NEAR(rows[i]["loss"], expected[i]["loss"], 1e-6 + norm * root * weight);
        EXPECT_EQ(rows[i].contains("val_loss"), expected[i].contains("val_loss"));
        EXPECT_EQ(rows[i]["tokens"], expected[i]["tokens"]);
        EXPECT_GT(rows[i]["sent_bytes"], 0);
      }
      EXPECT_LE(distance(last(one), last(many)), weight);
      EXPECT_GT(distance(last(one), last(many)), 0) << "the orders differ, so something must";
    }
  }
}

// Whatever arrives first, wherever the state is, however it is passed over.
TEST_F(SystemsTest, HaveTheSameBitsEveryTime) {
  struct Form {
    const char *precision, *state, *clip;
  };
  for (const Form& form : {Form{"fp32", "full", "global"}, Form{"bf16", "full", "global"},
                           Form{"bf16", "compact", "global"}, Form{"fp32", "full", "layer"},
                           Form{"bf16", "compact", "layer"}}) {
    config_.precision = form.precision;
    config_.storage.state = form.state;
    config_.storage.clip = form.clip;
    for (const int64_t systems : {2, 3}) {
      const std::string name =
          fmt::format("{}{}{}{}", form.precision, form.state, form.clip, systems);
      SCOPED_TRACE(name);
      const GPTConfig first = config(name, systems);
      ASSERT_TRUE(run(first));
      const GPTConfig again = config(name + "again", systems);
      ASSERT_TRUE(run(again));
      EXPECT_EQ(all_bytes(last(first)), all_bytes(last(again)));
      for (const char* recompute : {"on", "off"}) {
        GPTConfig streamed = config(name + recompute, systems, /*file=*/true);
        streamed.storage.recompute = recompute;
        ASSERT_TRUE(run(streamed));
        EXPECT_EQ(weights(streamed), weights(first)) << recompute;
        const auto rows = metrics_of(streamed.out_dir), expected = metrics_of(first.out_dir);
        ASSERT_EQ(rows.size(), expected.size());
        for (size_t i = 0; i < rows.size(); ++i) {
          EXPECT_EQ(rows[i]["loss"], expected[i]["loss"]);
          EXPECT_EQ(rows[i]["grad_norm"], expected[i]["grad_norm"]);
        }
      }
    }
  }
}

// With many micro-batches and little memory a step has several windows, and partial sums go through
// the files.
TEST_F(SystemsTest, WindowsChangeNoBit) {
  config_.sequence_length = config_.max_position_embeddings = 256;
  config_.width = 128;
  config_.batch_size = 16;
  config_.num_steps = 3;
  write_dataset(folder_ / "data", 31, 20000);
  const GPTConfig resident = config("ram", 2);
  ASSERT_TRUE(run(resident));
  GPTConfig streamed = config("file", 2, /*file=*/true);
  streamed.storage.recompute = "on";
  int64_t window = 8;  // all
  for (double gb = 0.6; window == 8 && gb > 0.35; gb -= 0.002) {
    streamed.storage.memory_gb = gb;
    const auto plan =
        engine::make_plan(streamed.layers(), engine::Precision::kFp32, streamed.run_size(true),
                          streamed.storage, streamed.out_dir, {});
    ASSERT_EQ(plan.refusal, "");
    window = plan.execution.window;
  }
  ASSERT_LT(window, 8);
  ASSERT_TRUE(run(streamed));
  EXPECT_EQ(weights(streamed), weights(resident));
}

// What the plan says of a step's bytes is what both systems' files see, in the long run.
TEST_F(SystemsTest, MoveTheBytesThatArePlanned) {
  config_.num_steps = 60;
  for (const char* recompute : {"on", "off"}) {
    for (const char* precision : {"fp32", "bf16"}) {
      config_.precision = precision;
      GPTConfig streamed = config(fmt::format("{}{}", recompute, precision), 2, /*file=*/true);
      streamed.storage.recompute = recompute;
      SCOPED_TRACE(streamed.out_dir);
      engine::StepTraffic planned;
      for (int rank = 0; rank < 2; ++rank) {
        const auto plan = engine::make_plan(
            streamed.layers(), engine::precision_for(precision, false, true),
            streamed.run_size(true), streamed.storage, streamed.out_dir, {}, rank);
        planned.read += 1e9 * plan.read_gb;
        planned.write += 1e9 * plan.write_gb;
      }
      ASSERT_TRUE(run(streamed));
      const auto rows = metrics_of(streamed.out_dir);
      double read = 0, written = 0;
      for (size_t i = 10; i < 50; ++i) {
        read += rows[i]["read_bytes"].get<double>();
        written += rows[i]["write_bytes"].get<double>();
      }
      // Of 40 steps, of which a part of one may lie outside.
      EXPECT_NEAR(read / 40, planned.read, 0.025 * planned.read);
      EXPECT_NEAR(written / 40, planned.write, 0.025 * planned.write);
    }
  }
}

// Stopped on some number of systems, a run goes on with any other.
TEST_F(SystemsTest, GoOnWithAnyNumberOfSystems) {
  for (const bool file : {false, true}) {
    config_.precision = file ? "bf16" : "fp32";
    const GPTConfig whole = config(fmt::format("whole{}", file), 2, file);
    ASSERT_TRUE(run(whole));
    GPTConfig parts = config(fmt::format("parts{}", file), 4, file);
    parts.saves.checkpoint_path = "latest";
    for (const int64_t systems : {4, 1, 2, 2, 3, 2}) {  // a step each
      parts.num_systems = systems;
      ASSERT_TRUE(run(parts, /*stop_after=*/1));
    }
    const auto rows = metrics_of(parts.out_dir), expected = metrics_of(whole.out_dir);
    ASSERT_EQ(rows.size(), 6U);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(rows[i]["step"], int64_t(i + 1));
      // Losses are near 3.4. Gradients are rounded to bf16 by each system: 2^-9 of them, of which
      // AdamW makes as much of the size of a step, which moves the loss by some tenths in all.
      EXPECT_NEAR(rows[i]["loss"], expected[i]["loss"], file ? 5e-3 : 1e-4);
    }
  }
}

// No step in between: what is loaded on one number and saved again is the same file.
TEST_F(SystemsTest, CheckpointsDoNotDependOnTheNumberOfSystems) {
  using Kind = std::pair<const char*, const char*>;
  for (const auto& [state, optimizer] : {Kind{"full", "adamw"}, Kind{"compact", "adamw"},
                                         Kind{"full", "muon"}, Kind{"full", "adafactor"}}) {
    config_.precision = "bf16";
    config_.storage.state = state;
    config_.optim.optimizer = optimizer;
    const std::string kind = fmt::format("{}{}", state, optimizer);
    SCOPED_TRACE(kind);
    GPTConfig first = config("first" + kind, 4);
    ASSERT_TRUE(run(first));
    for (const int64_t systems : {1, 2, 3}) {
      GPTConfig next = config(fmt::format("next{}{}", systems, kind), systems);
      next.saves.checkpoint_path = last(first).string();
      ASSERT_TRUE(run(next));
      EXPECT_EQ(all_bytes(last(next)), all_bytes(last(first))) << systems;
      // And through files, which take the state over from those of another number.
      GPTConfig filed = config(fmt::format("filed{}{}", systems, kind), systems, /*file=*/true);
      filed.saves.checkpoint_path = last(first).string();
      ASSERT_TRUE(run(filed));
      filed.num_systems = systems % 3 + 1;
      filed.saves.checkpoint_path = "latest";
      filed.num_steps = 7;
      ASSERT_TRUE(run(filed));
      EXPECT_EQ(names_in(filed.out_dir).contains("model.store"), filed.num_systems == 1);
      GPTConfig direct = config(fmt::format("direct{}{}", systems, kind), filed.num_systems);
      direct.saves.checkpoint_path = last(first).string();
      direct.num_steps = 7;
      ASSERT_TRUE(run(direct));
      EXPECT_EQ(weights(filed), weights(direct)) << "its moments were there";
    }
  }
}

TEST_F(SystemsTest, GoOnToTheSameBits) {
  for (const bool file : {false, true}) {
    const GPTConfig whole = config(fmt::format("whole{}", file), 3, file);
    ASSERT_TRUE(run(whole));
    GPTConfig parts = config(fmt::format("parts{}", file), 3, file);
    parts.saves.checkpoint_path = "latest";
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(run(parts, /*stop_after=*/2));
    EXPECT_EQ(weights(parts), weights(whole));
  }
}

// The one that leads judges; all leave out the batch, or go back, and go on to the same bits.
TEST_F(SystemsTest, LeaveOutTheBatchOfASpikeTogether) {
  config_.num_steps = 100;
  config_.saves.checkpoint_steps = 40;
  config_.saves.keep_checkpoints = 0;
  write_dataset(folder_ / "data", 31, 100 * 8 * 12 * 2 + 1);
  ASSERT_TRUE(engine::run_systems(
      1, [&](Cluster&) { write_spoiled(config_, /*step=*/90, folder_ / "spoiled"); }));
  config_.dataset = (folder_ / "spoiled").string();
  for (const std::string mode : {"rewind", "skip"}) {
    config_.watch.on_spike = mode;
    const auto run_of = [&](const std::string& name, int systems, int stop_after) {
      GPTConfig run_config = config(mode + name, systems);
      run_config.saves.checkpoint_path = "latest";
      EXPECT_TRUE((stop_after == 0 || run(run_config, stop_after)) && run(run_config));
      return run_config;
    };
    const GPTConfig one = run_of("one", 1, 0), many = run_of("many", 3, 0);
    const std::string left_out = read_text(folder_ / (mode + "one") / "left_out.json");
    EXPECT_NE(left_out.find("90"), std::string::npos) << left_out;
    EXPECT_EQ(read_text(folder_ / (mode + "many") / "left_out.json"), left_out);
    EXPECT_EQ(metrics_of(many.out_dir).size(), 100U);
    const GPTConfig stopped = run_of("stopped", 3, 95);
    EXPECT_EQ(weights(stopped), weights(many));
    EXPECT_EQ(read_text(folder_ / (mode + "stopped") / "left_out.json"), left_out);
  }
  // Files of another number of systems are gone on with, and what was left out stays so.
  GPTConfig filed = config("filed", 3, /*file=*/true);
  filed.saves.checkpoint_path = "latest";
  ASSERT_TRUE(run(filed, /*stop_after=*/95));
  filed.num_systems = 2;
  ASSERT_TRUE(run(filed));
  EXPECT_EQ(read_text(folder_ / "filed/left_out.json"),
            read_text(folder_ / "skipone/left_out.json"));
}

TEST_F(SystemsTest, EvaluateLikeOne) {
  const GPTConfig trained = config("trained", 2);
  ASSERT_TRUE(run(trained));
  const auto loss_on = [&](int64_t systems) {
    const Path result = folder_ / fmt::format("loss{}", systems);
    EXPECT_TRUE(engine::run_systems(int(systems), [&](Cluster& cluster) {
      at::set_num_threads(1);
      const GPTConfig eval = config("eval", systems);
      auto gpt = make_gpt(eval, /*training=*/false, {{}, cluster});
      engine::load_checkpoint(last(trained), gpt.store, /*optimizer=*/false, 0, {});
      const TokenData data(eval, "val");
      const auto loss = evaluate(gpt.executor, data, eval, [](double) { return true; });
      if (cluster.leads())
        File::create(result).write(fmt::format("{} {}", loss->loss, loss->tokens));
      // Given up by one, for all.
      const bool gives_up = cluster.rank() == cluster.systems() - 1;
      if (evaluate(gpt.executor, data, eval, [=](double s) { return s == 0 || !gives_up; }))
        fail("an evaluation went on");
    }));
    return read_text(result);
  };
  const std::string one = loss_on(1);
  EXPECT_EQ(loss_on(2), one);
  EXPECT_EQ(loss_on(5), one);
}

TEST_F(SystemsTest, FailTogether) {
  // Bad data late in a run is the same for all: what was learned so far is kept.
  std::vector<uint16_t> ids(24 * 8 * 12 + 1, 3);
  ids.back() = 31;
  File::create(folder_ / "data/train.bin").write(std::as_bytes(std::span(ids)));
  GPTConfig bad = config("bad", 2);
  bad.num_steps = 24;
  bad.seed = 3;  // has the last sequence late
  testing::internal::CaptureStderr();
  EXPECT_FALSE(run(bad));
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(
      text.ends_with("the data belongs to another tokenizer, or vocab_size is too small\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  const std::vector<int64_t> saved = engine::checkpoint_steps(bad.out_dir);
  ASSERT_EQ(saved.size(), 1u);
  EXPECT_GT(saved[0], 5);
  EXPECT_EQ(saved[0], int64_t(metrics_of(bad.out_dir).size()));
  // A loss that is not finite is named by all that see it.
  write_dataset(folder_ / "data", 31, 1000);
  GPTConfig wild = config("wild", 2);
  wild.optim.learning_rate = 1e30;
  wild.num_steps = 100;
  testing::internal::CaptureStderr();
  EXPECT_FALSE(run(wild));
  EXPECT_NE(testing::internal::GetCapturedStderr().find("is not finite, first in layer"),
            std::string::npos);
}

TEST_F(SystemsTest, RefuseFilesThatDoNotBelongTogether) {
  GPTConfig files = config("files", 2, /*file=*/true);
  ASSERT_TRUE(run(files, 2));
  files.saves.checkpoint_path = "latest";
  const Path second = Path(files.out_dir) / "model.1-of-2.store";
  const auto refusal_with = [&](int64_t systems) {
    files.num_systems = systems;
    testing::internal::CaptureStderr();
    EXPECT_FALSE(run(files, 1));
    return testing::internal::GetCapturedStderr();
  };
  std::filesystem::rename(second, folder_ / "away");
  for (const int64_t systems : {1, 2}) {
    EXPECT_NE(refusal_with(systems).find("those of systems 0 (step 2). Bring the others back"),
              std::string::npos);
  }
  GPTConfig other = config("other", 2, /*file=*/true);
  ASSERT_TRUE(run(other, 2));
  std::filesystem::copy(Path(other.out_dir) / "model.1-of-2.store", second);
  EXPECT_NE(refusal_with(2).find("does not belong together"), std::string::npos);
  std::filesystem::remove(second);
  std::filesystem::rename(folder_ / "away", second);
  files.num_systems = 2;
  EXPECT_TRUE(run(files, 1));
}

// Systems that are killed at any moment, over and over: what they leave in the end is, bit for bit,
// what systems leave that nobody kills.
TEST_F(SystemsTest, KilledAtAnyMomentLoseNothing) {
  const char* wanted = std::getenv("GIGAGPT_KILLS");
  const int runs = wanted == nullptr ? 3 : std::max(3, std::atoi(wanted) / 16);
  std::mt19937_64 random(7);
  int kills = 0;
  for (int i = 0; i < runs; ++i) {
    config_.precision = i % 3 == 0 ? "fp32" : "bf16";
    config_.storage.state = i % 3 == 2 ? "compact" : "full";
    config_.num_steps = 250;
    config_.saves.checkpoint_steps = 13;
    config_.eval_steps = 7;
    config_.eval_batches = 1;
    config_.seed = i;
    const int64_t number = 2 + i % 2;
    const GPTConfig calm = config(fmt::format("calm{}", i), number, /*file=*/true);
    ASSERT_TRUE(run(calm));
    GPTConfig killed = config(fmt::format("killed{}", i), number, /*file=*/true);
    killed.saves.checkpoint_path = "latest";
    for (int left = 16; true; --left) {
      engine::Systems lives(int(number), [&](Cluster& cluster) { train_here(killed, cluster); });
      if (left > 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 250'000));
        lives.kill(int(random() % uint64_t(number)));
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 3'000));
      }
      if (lives.wait()) break;
      ++kills;
      ASSERT_GE(left, 0) << "a life that nobody killed failed";
    }
    EXPECT_EQ(weights(killed), weights(calm)) << i;
    const auto rows = metrics_of(killed.out_dir), expected = metrics_of(calm.out_dir);
    ASSERT_EQ(rows.size(), expected.size());
    for (size_t step = 0; step < rows.size(); ++step) {
      EXPECT_EQ(rows[step]["step"], expected[step]["step"]);
      EXPECT_EQ(rows[step]["loss"], expected[step]["loss"]);
    }
  }
  std::printf("%d kills\n", kills);
  EXPECT_GT(kills, 10 * runs) << "most came too late";
}

}  // namespace
}  // namespace gigagpt
