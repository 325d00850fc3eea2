// The two programs as a user runs them.
#include <gtest/gtest.h>

#include <regex>

#include "base/error.h"
#include "base/testing.h"
#include "cli/programs_testing.h"

namespace gigagpt {
namespace {

class Programs : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryDirectory>();
    ::setenv("XDG_CACHE_HOME", folder_->path().c_str(), 1);  // the machine is measured once
    const std::string text = (folder_->path() / "kjv.txt").string();
    ASSERT_EQ(shell("bible -f gen1:1-rev22:21 | sed 's/^[^ ]* //' > " + text).status, 0);
    const Outcome prepared =
        shell(kProgram + " prepare --input " + text + " --out " + data() + " --tokenizer char");
    ASSERT_EQ(prepared.status, 0) << prepared.text;
    EXPECT_NE(prepared.text.find("set vocab_size: 63"), std::string::npos) << prepared.text;
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static std::string data() { return (folder_->path() / "data").string(); }
  static std::string path(const std::string& name) { return (folder_->path() / name).string(); }

  // The quick start's config, on this data.
  static std::vector<std::string> train(const std::string& out, std::vector<std::string> more) {
    std::vector<std::string> arguments = {
        kProgram,    "train",          kSource + "/configs/quickstart.yaml",
        "--dataset", data(),           "--out_dir",
        path(out),   "--warmup_steps", "10"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  static Outcome run_train(const std::string& out, std::vector<std::string> more) {
    return shell(fmt::format("{}", fmt::join(train(out, std::move(more)), " ")));
  }

  static std::unique_ptr<TemporaryDirectory> folder_;
  // Steps of a quarter of the tokens, where it is not the loss that counts.
  static inline const std::vector<std::string> kSmallSteps = {
      "--eval_steps", "0", "--batch_size", "8", "--sequence_length", "64"};
};
std::unique_ptr<TemporaryDirectory> Programs::folder_;

// The whole way. An untrained model has a loss of log(63) = 4.14; on this split the frequencies of
// letters give 3.02, those of pairs of letters 2.32. Below that it has learned more than pairs.
TEST_F(Programs, TrainEvaluateAndSample) {
  const Outcome trained = run_train("way", {"--num_steps", "300", "--log_steps", "50"});
  ASSERT_EQ(trained.status, 0) << trained.text;
  EXPECT_NE(trained.text.find("step 300/300  loss "), std::string::npos) << trained.text;
  const Outcome evaluated = shell(kProgram + " eval --checkpoint_path " + path("way"));
  ASSERT_EQ(evaluated.status, 0) << evaluated.text;
  std::smatch match;
  const std::regex line("loss ([0-9.]+), perplexity [0-9.]+ over 413784 tokens");
  ASSERT_TRUE(std::regex_search(evaluated.text, match, line)) << evaluated.text;
  EXPECT_LT(std::stod(match[1]), 2.32);
  const std::string sample = kProgram + " sample --checkpoint_path " + path("way") +
                             " --prompt 'And God ' --max_length 60";
  const Outcome text = shell(sample);
  ASSERT_EQ(text.status, 0) << text.text;
  EXPECT_TRUE(text.text.starts_with("And God ")) << text.text;
  EXPECT_EQ(text.text.size(), 61U) << "60 characters and the end of the line";
  EXPECT_EQ(shell(sample).text, text.text) << "same seed, same text";
  const Outcome asked = shell("printf 'In the\\n\\n' | " + kProgram + " sample --checkpoint_path " +
                              path("way") + " --max_length 20");
  EXPECT_NE(asked.text.find("Enter a prompt (RETURN to exit): In the"), std::string::npos);
  const Outcome run = shell(kProgram + " inspect " + path("way"));
  EXPECT_EQ(run.status, 0) << run.text;
  EXPECT_NE(run.text.find("checkpoint_300"), std::string::npos) << run.text;
  const Outcome checkpoint = shell(kProgram + " inspect " + path("way") + "/checkpoint_300");
  EXPECT_EQ(checkpoint.status, 0) << checkpoint.text;
  const std::regex sums("(file +(model|optimizer).safetensors .*: checksum matches\n *){2}");
  EXPECT_TRUE(std::regex_search(checkpoint.text, sums)) << checkpoint.text;
}

TEST_F(Programs, StopSignalsSaveAndTheRunGoesOnBitForBit) {
  std::vector<std::string> steps = kSmallSteps;
  steps.insert(steps.end(), {"--num_steps", "40"});
  ASSERT_EQ(run_train("whole", steps).status, 0);
  int completed = 10;
  for (const int signal : {SIGINT, SIGTERM}) {
    auto more = steps;
    more.insert(more.end(), {"--checkpoint_path", "latest"});
    const Path metrics = path("stopped") + "/metrics.jsonl";
    Background run(train("stopped", more), path("log"));
    const int status = run.signal_at(signal, metrics, completed);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 128 + signal);
    EXPECT_NE(read_text(path("log")).find("--checkpoint_path latest continues"), std::string::npos);
    completed += 10;
  }
  steps.insert(steps.end(), {"--checkpoint_path", "latest"});
  ASSERT_EQ(run_train("stopped", steps).status, 0);
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_TRUE(read_text(path("whole") + "/checkpoint_40/" + file) ==
                read_text(path("stopped") + "/checkpoint_40/" + file))
        << file;
  }
}

// Killed at any moment while it saves all the time: what is there is complete and goes on.
TEST_F(Programs, KilledRunsLeaveOnlyWholeCheckpoints) {
  std::vector<std::string> more = kSmallSteps;
  more.insert(more.end(),
              {"--num_steps", "200", "--checkpoint_steps", "1", "--checkpoint_path", "latest"});
  for (int round = 1; round <= 6; ++round) {
    Background run(train("killed", more), path("log"));
    const int status = run.signal_at(SIGKILL, path("killed") + "/metrics.jsonl", 5 * round);
    EXPECT_TRUE(WIFSIGNALED(status));
    const Outcome text = shell(kProgram + " sample --checkpoint_path " + path("killed") +
                               " --prompt a --max_length 3");
    EXPECT_EQ(text.status, 0) << text.text;
  }
}

TEST_F(Programs, ErrorsAreOneLineAndExitWithOne) {
  const std::string config = kSource + "/configs/quickstart.yaml ";
  for (const auto& [command, message] : std::vector<std::pair<std::string, std::string>>{
           {"", "a command is needed"},
           {"trian", "did you mean 'train'?"},
           {"train " + config + "--widht 3", "did you mean '--width'?"},
           {"train " + config + "--width 3.5", "--width: '3.5' is not a whole number"},
           {"train " + config + "--num_steps", "--num_steps"},
           {"train " + config + "--num_systems 2 --hosts a", "hosts: a has room for 1 system"},
           {"train /no/such.yaml", "/no/such.yaml"},
           {"train " + config + "--dataset /no/such --out_dir " + path("x"), "no folder /no/such"},
           {"eval --checkpoint_path /no/such", "there is no checkpoint in /no/such"},
           {"sample --checkpoint_path /no/such", "there is no checkpoint in /no/such"},
           {"inspect /no/such", "cannot inspect /no/such: No such file"},
           {"inspect " + config, "it seems to be text"},
           {"prepare --input /no/such --out " + path("y"), "/no/such"}}) {
    const Outcome outcome = shell(kProgram + " " + command);
    EXPECT_EQ(outcome.status, 1) << command;
    EXPECT_TRUE(outcome.text.starts_with("gigagpt: ")) << outcome.text;
    EXPECT_NE(outcome.text.find(message), std::string::npos) << outcome.text;
    EXPECT_EQ(std::count(outcome.text.begin(), outcome.text.end(), '\n'), 1) << outcome.text;
  }
  EXPECT_FALSE(std::filesystem::exists(path("x")) || std::filesystem::exists(path("y")));
}

TEST_F(Programs, PlansAndRefusesWhatDoesNotFit) {
  const Outcome small = shell(kProgram + " plan " + kSource +
                              "/configs/quickstart.yaml --out_dir " + path("planned"));
  EXPECT_EQ(small.status, 0) << small.text;
  for (const char* line :
       {"\nstate ", "\nmemory ", "\ndisk ", "\na step ", "\nthe run      about "}) {
    EXPECT_NE(small.text.find(line), std::string::npos) << small.text;
  }
  const std::string large =
      kSource + "/configs/175b.yaml --memory_gb 4 --out_dir " + path("planned");
  const Outcome plan = shell(kProgram + " plan " + large);
  EXPECT_EQ(plan.status, 1);
  EXPECT_NE(plan.text.find("model        174,604,259,328 parameters"), std::string::npos)
      << plan.text;
  EXPECT_NE(plan.text.find("DOES NOT FIT memory_gb: 4.00 is not enough"), std::string::npos);
  const Outcome train =
      shell(kProgram + " train " + large + " --vocab_size 63 --dataset " + data());
  EXPECT_EQ(train.status, 1);
  EXPECT_TRUE(train.text.starts_with("gigagpt: memory_gb: 4.00 is not enough")) << train.text;
  EXPECT_FALSE(std::filesystem::exists(path("planned"))) << "nothing is written";
}

TEST_F(Programs, ComputeRefusesWhatTheFrontProgramDoes) {
  for (const std::string command :
       {"export --checkpoint_path x --gguf x.gguf", "prepare --input x --out x", "inspect x"}) {
    const Outcome outcome = shell(kProgram + "-compute " + command);
    EXPECT_EQ(outcome.status, 1) << command;
    EXPECT_NE(outcome.text.find("is run by `gigagpt`, not `gigagpt-compute`"), std::string::npos)
        << outcome.text;
  }
}

TEST_F(Programs, CheckSaysWhatHolds) {
  const std::string check = kProgram + " check " + kSource + "/configs/llama/qwen2.5-0.5b.yaml";
  const Outcome small = shell(check + " --depth 1");
  EXPECT_EQ(small.status, 0) << small.text;
  EXPECT_EQ(small.text.find("a small model: model llama, "), 0U) << small.text;
  EXPECT_NE(small.text.find(", depth 1, "), std::string::npos) << small.text;
  EXPECT_NE(small.text.find("\nok      gradients are the slopes of the loss ("), std::string::npos);
  EXPECT_NE(small.text.find("\nall 18 claims hold; "), std::string::npos) << small.text;
  const Outcome longer = shell(check + " --sequence_length 20 --width 60 --heads 6 --kv_heads 3");
  EXPECT_EQ(longer.status, 0) << longer.text;
  EXPECT_NE(longer.text.find(", sequence_length 20: "), std::string::npos) << longer.text;
  const Outcome wrong = shell(check + " --kv_heads 3");
  EXPECT_EQ(wrong.status, 1);
  EXPECT_EQ(wrong.text, "gigagpt: kv_heads: 3 does not divide heads 4\n");
}

TEST_F(Programs, DryRunPrintsAConfigThatReadsBack) {
  const std::string first = path("first.yaml"), second = path("second.yaml");
  const std::string run = kProgram + " train ";
  ASSERT_EQ(shell(run + kSource + "/configs/175b.yaml --dry_run > " + first).status, 0);
  ASSERT_EQ(shell(run + first + " --dry_run > " + second).status, 0);
  EXPECT_EQ(read_text(first), read_text(second));
  EXPECT_NE(read_text(first).find("# parameters: 174604259328"), std::string::npos);
}

TEST_F(Programs, EveryCommandHasHelp) {
  for (const char* command : {"prepare", "train", "eval", "sample", "inspect"}) {
    const Outcome help = shell(kProgram + " " + command + " --help");
    EXPECT_EQ(help.status, 0);
    EXPECT_NE(help.text.find("Example"), std::string::npos) << command;
  }
}

TEST_F(Programs, FrontProgramDoesNotLoadLibTorch) {
  const Outcome libraries = shell("ldd " + kProgram);
  EXPECT_NE(libraries.text.find("libc.so"), std::string::npos);
  EXPECT_EQ(libraries.text.find("torch"), std::string::npos) << libraries.text;
}

}  // namespace
}  // namespace gigagpt
