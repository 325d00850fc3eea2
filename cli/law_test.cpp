#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/temporary_directory.h"
#include "base/testing.h"
#include "cli/law.h"
#include "cli/law_choose.h"
#include "cli/yaml.h"
#include "formats/run_files.h"
#include "gpt/law_file.h"

namespace gigagpt::cli {
namespace {

constexpr int kSteps = 10;

class LawOfRuns : public testing::Test {
 protected:
  // A finished run of that width, whose loss lies on a law; `change` may spoil it.
  std::string write_run(int64_t width, const std::function<void(GPTConfig&)>& change = {},
                        int64_t done = kSteps, const std::string& data = "some text") {
    GPTConfig config;
    config.depth = 2, config.heads = 2, config.width = width, config.vocab_size = 100;
    config.sequence_length = 64, config.batch_size = width, config.num_steps = kSteps;
    config.max_position_embeddings = 64;
    if (change) change(config);
    const Path run = folder_.path() / ("w" + std::to_string(width));
    const Path checkpoint = run / ("checkpoint_" + std::to_string(done));
    std::filesystem::create_directories(checkpoint);
    const int64_t tokens = done * config.batch_size * config.sequence_length;
    File::create(checkpoint / "model.safetensors").write(std::string("x"));
    formats::write_trainer_state(
        checkpoint, {done, tokens, option_texts(config.options()), {{"data", data}}, {}});
    const double flops = double(tokens) * published_flops_per_token(config.layers(), 64);
    const std::string loss = fmt::format("{}", kLaw.loss(flops));
    std::string lines;
    for (int step = 1; step <= done; ++step) {
      lines +=
          fmt::format(R"({{"step":{},"loss":5,"val_loss":{}}})", step, step == done ? loss : "9") +
          "\n";
    }
    File::create(run / "metrics.jsonl").write(lines);
    return run.string();
  }
  std::string fit(const std::vector<std::string>& runs) {
    LawArguments arguments;
    arguments.action = LawArguments::Action::kFit;
    arguments.runs = runs;
    arguments.out = (folder_.path() / "law.json").string();
    arguments.picture = (folder_.path() / "law.svg").string();
    testing::internal::CaptureStdout();
    const auto end = [] { return std::fflush(stdout), testing::internal::GetCapturedStdout(); };
    try {
      fit_runs(arguments);
    } catch (const Error&) {
      end();
      throw;
    }
    return end();
  }
  std::vector<std::string> four() {
    return {write_run(64), write_run(16), write_run(32), write_run(128)};
  }

  const ScalingLaw kLaw{"", 2e12, 0.3, 1.2};
  TemporaryDirectory folder_;
};

TEST_F(LawOfRuns, IsFoundWrittenAndDrawn) {
  const std::string text = fit(four());
  const ScalingLaw law = read_law(folder_.path() / "law.json").fit.law;
  EXPECT_NEAR(law.exponent, 0.3, 1e-3);
  EXPECT_NEAR(law.floor, 1.2, 1e-2);
  EXPECT_NE(text.find("L = (FLOPs / "), std::string::npos);
  EXPECT_LT(text.find("w16 "), text.find("w128 ")) << "by their FLOPs";
  EXPECT_TRUE(std::filesystem::exists(folder_.path() / "law.svg"));
}

TEST_F(LawOfRuns, RunsThatDoNotFitAreNamedAndRefused) {
  std::vector<std::string> runs = four();
  runs[1] = write_run(16, {}, kSteps - 1);
  std::filesystem::remove_all(folder_.path() / "w16" / "checkpoint_10");
  EXPECT_ERROR(fit(runs), "w16: it is not finished: its newest checkpoint is of step 9 of 10");
  runs = four();
  write_run(32, {}, kSteps, "another text");
  EXPECT_ERROR(fit(runs), "w32: it cannot be compared with ");
  runs = four();
  write_run(128, [](GPTConfig& config) { config.parametrisation.mup_base_width = 64; });
  EXPECT_ERROR(fit(runs), "it is in muP and not in the standard parametrisation");
  runs = four();
  File::create(Path(runs[2]) / "metrics.jsonl").write(std::string("{\"step\":10,\"loss\":5}\n"));
  EXPECT_ERROR(fit(runs), "w32: it has no validation loss of its last step, 10");
  EXPECT_ERROR(fit({runs[0]}), "it needs four runs");
}

// What is printed.
std::string output_of(const std::function<void()>& run) {
  testing::internal::CaptureStdout();
  const auto end = [] { return std::fflush(stdout), testing::internal::GetCapturedStdout(); };
  try {
    run();
  } catch (const Error&) {
    end();
    throw;
  }
  return end();
}

Arguments told(const std::vector<Setting>& settings) {
  Arguments arguments;
  arguments.settings = settings;
  return arguments;
}

TEST_F(LawOfRuns, PredictsARunWithHowSureItIs) {
  fit(four());
  const std::string law = (folder_.path() / "law.json").string();
  const std::vector<Setting> settings = {{"law", law, "--law"},     {"width", "64", ""},
                                         {"depth", "2", ""},        {"heads", "2", ""},
                                         {"vocab_size", "100", ""}, {"sequence_length", "64", ""}};
  const std::string text = output_of([&] { predict_loss(told(settings)); });
  EXPECT_NE(text.find("fitted to 4 runs"), std::string::npos) << text;
  EXPECT_NE(text.find(" nats a token, with 95 % "), std::string::npos) << text;
  EXPECT_NE(text.find("openwebtext is not here"), std::string::npos) << text;
  auto other = settings;
  other.push_back({"mup_base_width", "64", ""});
  EXPECT_ERROR(predict_loss(told(other)), "it is in muP and not in the standard parametrisation");
}

TEST_F(LawOfRuns, OfSeveralRatiosTellTheBest) {
  // L = 1 + 40 N^-0.4 + 120 D^-0.4, whose best D / N is (120 / 40)^(1 / 0.4) for any budget.
  LawArguments arguments;
  arguments.action = LawArguments::Action::kRatio;
  for (const int64_t width : {16, 32, 64}) {
    for (const int64_t batch : {20, 80, 400}) {
      const auto change = [&](GPTConfig& config) {
        config.batch_size = batch * width / 16;
        config.out_dir = fmt::format("w{}", width);
      };
      const Path run = write_run(width, change);
      const Path mine = folder_.path() / fmt::format("w{}-{}", width, batch);
      std::filesystem::rename(run, mine);
      const auto state = formats::read_trainer_state(mine / "checkpoint_10");
      GPTConfig config;
      for (const auto& [key, value] : state.config)
        set_option(find_option(config.options(), key), value);
      const auto parameters = double(engine::parameter_count(config.layers()));
      const double loss =
          1 + 40 * std::pow(parameters, -0.4) + 120 * std::pow(double(state.tokens), -0.4);
      File::create(mine / "metrics.jsonl")
          .write(fmt::format("{{\"step\":10,\"loss\":5,\"val_loss\":{}}}\n", loss));
      arguments.runs.push_back(mine.string());
    }
  }
  arguments.picture = (folder_.path() / "ratio.svg").string();
  const std::string text = output_of([&] { compare_ratios(arguments); });
  EXPECT_NE(text.find("L = 1.0000 + 40 N^-0.4000 + 120 D^-0.4000"), std::string::npos) << text;
  EXPECT_NE(text.find(" FLOPs 15.6 tokens a parameter are best"), std::string::npos) << text;
  EXPECT_TRUE(std::filesystem::exists(folder_.path() / "ratio.svg"));
}

// A machine on which a step takes its FLOPs over 1e12 seconds.
engine::Plan plan_of(const GPTConfig& config) {
  engine::Plan plan;
  plan.step_s = published_flops(config) / double(config.num_steps) / 1e12;
  return plan;
}

class Choice : public testing::Test {
 protected:
  // The config that is chosen, as it is written.
  GPTConfig choose(std::vector<Setting> settings, std::optional<double> hours,
                   std::optional<double> flops, const PlanOf& plan = plan_of) {
    Arguments arguments = told(settings);
    arguments.law.hours = hours, arguments.law.flops = flops;
    const Path file = folder_.path() / "chosen.yaml";
    arguments.law.out = file.string();
    text_ = output_of([&] { choose_size(arguments, plan); });
    GPTConfig config;
    std::vector<std::string> notes;
    apply_settings(read_yaml(file.string(), notes), config);
    config.check();
    return config;
  }
  double parameters(const GPTConfig& config) {
    return double(engine::parameter_count(config.layers()));
  }
  double tokens(const GPTConfig& config) {
    return double(config.num_steps * config.batch_size * config.sequence_length);
  }

  TemporaryDirectory folder_;
  std::string text_;
  const std::vector<Setting> mup_ = {{"mup_base_width", "256", ""}, {"learning_rate", "0.006", ""}};
};

TEST_F(Choice, FillsTheBudgetWithTwentyTokensAParameter) {
  double before = 0;
  for (const double hours : {1.0, 10.0, 100.0, 1000.0, 1e5}) {
    const GPTConfig config = choose(mup_, hours, {});
    const double takes = plan_of(config).step_s * double(config.num_steps) / 3600;
    EXPECT_LE(takes, hours * 1.001);
    EXPECT_GT(takes, hours * 0.85);
    EXPECT_GE(tokens(config) / parameters(config), 19.5);
    EXPECT_LE(tokens(config) / parameters(config), 28.5);
    EXPECT_GT(parameters(config), 2 * before);
    EXPECT_EQ(config.parametrisation.mup_base_width, 256);
    EXPECT_EQ(config.optim.learning_rate, 0.006);
    EXPECT_NE(text_.find("To train:"), std::string::npos);
    EXPECT_EQ(config.out_dir, "out/chosen");
    before = parameters(config);
  }
}

// The published models are found again by their FLOPs, within what another shape comes to.
TEST_F(Choice, OfPublishedBudgetsIsNearThePublishedModels) {
  for (const PublishedModel& m : published_models()) {
    const GPTConfig config = choose(mup_, {}, m.flops * 1.02);
    EXPECT_NEAR(std::log(parameters(config) / m.parameters), 0, 0.25) << m.name;
    EXPECT_NEAR(double(config.depth) / double(m.depth), 1, 0.3) << m.name;
  }
}

TEST_F(Choice, WhatCannotBeIsSaid) {
  EXPECT_ERROR(choose(mup_, 1e-9, {}), "the smallest model takes ");
  const auto too_large = [](const GPTConfig&) {
    engine::Plan plan;
    plan.refusal = "it needs 9 GB of memory";
    return plan;
  };
  EXPECT_ERROR(choose(mup_, 1.0, {}, too_large),
               "the smallest model does not fit: it needs 9 GB of memory");
  EXPECT_ERROR(choose({{"min_lr", "1", ""}}, 1.0, {}), "min_lr");
  EXPECT_ERROR(choose({{"decay_steps", "100", ""}, {"lr_decay", "linear", ""}}, 1.0, {}),
               "decay_steps and decay_from are of a run of one length");
  // No width has as many heads.
  EXPECT_ERROR(choose({{"model", "llama", ""},
                       {"heads", "997", ""},
                       {"kv_heads", "997", ""},
                       {"width", "3988", ""}},
                      1.0, {}),
               "no size of this family is possible: ");
}

}  // namespace
}  // namespace gigagpt::cli
