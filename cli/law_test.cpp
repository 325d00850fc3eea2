#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/temporary_directory.h"
#include "base/testing.h"
#include "cli/law.h"
#include "formats/run_files.h"
#include "gpt/law.h"

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
  const ScalingLaw law = read_law(folder_.path() / "law.json");
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
  EXPECT_ERROR(fit(runs), "w32: its text (another text) is not that of");
  runs = four();
  write_run(128, [](GPTConfig& config) { config.parametrisation.mup_base_width = 64; });
  EXPECT_ERROR(fit(runs), "w128: it is a model of muP, and");
  runs = four();
  File::create(Path(runs[2]) / "metrics.jsonl").write(std::string("{\"step\":10,\"loss\":5}\n"));
  EXPECT_ERROR(fit(runs), "w32: it has no validation loss of its last step, 10");
  EXPECT_ERROR(fit({runs[0]}), "it needs four runs");
}

}  // namespace
}  // namespace gigagpt::cli
