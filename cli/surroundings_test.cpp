// A run in surroundings that go wrong: terminals that close, pipes without readers, full disks of
// logs, data that changes.
#include <gtest/gtest.h>
#include <pty.h>

#include <csignal>
#include <thread>

#include "base/error.h"
#include "base/testing.h"
#include "cli/programs_testing.h"
#include "engine/run/run_directory.h"

namespace gigagpt {
namespace {

namespace fs = std::filesystem;

// A model that makes a step in milliseconds.
class Surroundings : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryDirectory>();
    ::setenv("XDG_CACHE_HOME", folder_->path().c_str(), 1);
    write_data("data", 20000);
    ASSERT_EQ(shell(train("measured", 1)).status, 0);  // this machine, once
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static void write_data(const std::string& name, size_t tokens) {
    std::string bytes;
    for (size_t i = 0; i < tokens; ++i) bytes += {char('a' + i * i % 23), '\0'};
    folder_->write(name + "/train.bin", bytes);
    folder_->write(name + "/val.bin", bytes);
  }
  static std::string path(const std::string& name) { return (folder_->path() / name).string(); }
  static std::string train(const std::string& out, int steps, const std::string& data = "data") {
    return fmt::format(
        "{} train {}/configs/quickstart.yaml --width 32 --depth 1 --heads 2 --vocab_size 200 "
        "--dataset {} --out_dir {} --num_steps {} --eval_steps 0 --checkpoint_steps 0 "
        "--checkpoint_minutes 0 --log_steps 1",
        kProgram, kSource, path(data), path(out), steps);
  }
  // What the shell says it ended with; a process it waits for may end by a signal.
  static int status_of(const std::string& command) {
    const int status = std::system(("exec bash -c '" + command + "'").c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  static std::vector<int64_t> saved(const std::string& out) {
    return engine::checkpoint_steps(path(out));
  }
  static size_t steps_in(const std::string& out) {
    const Path metrics = path(out) + "/metrics.jsonl";
    if (!fs::exists(metrics)) return 0;
    const std::string text = read_text(metrics);
    return size_t(std::count(text.begin(), text.end(), '\n'));
  }
  // Everything that was computed is in the newest checkpoint.
  static void expect_saved(const std::string& out) {
    ASSERT_FALSE(saved(out).empty());
    EXPECT_EQ(saved(out).back(), int64_t(steps_in(out)));
  }
  static std::unique_ptr<TemporaryDirectory> folder_;
};
std::unique_ptr<TemporaryDirectory> Surroundings::folder_;

TEST_F(Surroundings, AClosedTerminalLosesNothing) {
  std::mt19937_64 random(20);
  for (int round = 0; round < 6; ++round) {
    const std::string out = fmt::format("pty{}", round);
    int terminal = -1;
    const pid_t child = ::forkpty(&terminal, nullptr, nullptr, nullptr);
    if (child == 0) {
      const std::string command = "exec " + train(out, 1'000'000);
      ::execl("/bin/bash", "bash", "-c", command.c_str(), nullptr);
      ::_exit(127);
    }
    ASSERT_GT(child, 0);
    std::thread reader([&] {  // as a terminal does; a full one would halt the run
      char text[4096];
      while (::read(terminal, text, sizeof text) > 0 && steps_in(out) < 3) {
      }
    });
    reader.join();
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 30));
    ::close(terminal);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), 128 + SIGHUP);
    expect_saved(out);
  }
}

TEST_F(Surroundings, ALogThatNobodyTakesEndsNoRun) {
  EXPECT_EQ(status_of(train("gone", 40) + " 2> >(head -n 2 >/dev/null)"), 0);
  EXPECT_EQ(saved("gone"), std::vector<int64_t>{40});
  EXPECT_EQ(status_of(train("full", 40) + " 2>/dev/full"), 0);
  EXPECT_EQ(saved("full"), std::vector<int64_t>{40});
  EXPECT_EQ(status_of(train("closed", 40) + " <&- >&- 2>&-"), 0);
  EXPECT_EQ(saved("closed"), std::vector<int64_t>{40});
  for (const auto& entry : fs::directory_iterator(path("closed"))) {
    if (!entry.is_regular_file() || entry.path().filename() == "metrics.jsonl") continue;
    EXPECT_EQ(read_text(entry.path()).find("step "), std::string::npos) << entry.path();
  }
}

TEST_F(Surroundings, CtrlCSavesWhenTheReaderOfThePipeEndsFirst) {
  const std::string command = "exec " + train("tee", 1'000'000) + " 2> >(head -c 300 >/dev/null)";
  Background run({"/bin/bash", "-c", command}, path("log"));
  run.wait_for_lines(path("tee") + "/metrics.jsonl", 20);
  run.signal(SIGINT);
  const int status = run.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGINT) << status;
  expect_saved("tee");
}

TEST_F(Surroundings, SignalsThatWereIgnoredStayIgnored) {
  Background run({"/usr/bin/nohup", "/bin/bash", "-c", "exec " + train("nohup", 400)}, path("log"));
  run.wait_for_lines(path("nohup") + "/metrics.jsonl", 3);
  for (int i = 0; i < 3; ++i) run.signal(SIGHUP);
  EXPECT_EQ(run.wait(), 0);
  EXPECT_EQ(saved("nohup"), std::vector<int64_t>{400});
}

TEST_F(Surroundings, RepeatedHangUpsAndAnotherSignalStillSave) {
  Background run({"/bin/bash", "-c", "exec " + train("hup", 1'000'000)}, path("log"));
  run.wait_for_lines(path("hup") + "/metrics.jsonl", 3);
  run.signal(SIGHUP);
  run.signal(SIGHUP);
  run.signal(SIGTERM);
  const int status = run.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGHUP) << status;
  expect_saved("hup");
}

TEST_F(Surroundings, DataThatBecomesShorterIsAnErrorAndTheRunIsSaved) {
  write_data("shrinking", 20000);
  Background run({"/bin/bash", "-c", "exec " + train("shrunk", 1'000'000, "shrinking")},
                 path("log"));
  run.wait_for_lines(path("shrunk") + "/metrics.jsonl", 3);
  fs::resize_file(path("shrinking/train.bin"), 2000);
  const int status = run.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  EXPECT_NE(read_text(path("log")).find("shrinking/train.bin ends at byte"), std::string::npos)
      << read_text(path("log"));
  expect_saved("shrunk");
}

TEST_F(Surroundings, ABadTokenizerIsAnErrorBeforeTheFirstStep) {
  write_data("spoiled", 20000);
  folder_->write("spoiled/tokenizer.json", "{\"model\": 7}");
  const Outcome outcome = shell(train("unstarted", 5, "spoiled"));
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.text.find("spoiled/tokenizer.json"), std::string::npos) << outcome.text;
  EXPECT_EQ(steps_in("unstarted"), 0U);
}

TEST_F(Surroundings, ResultsThatCannotBeWrittenAreErrors) {
  ASSERT_EQ(shell(train("results", 2)).status, 0);
  const std::string checkpoint = " --checkpoint_path " + path("results");
  for (const std::string& command :
       {kProgram + " inspect " + path("results"), train("results", 2) + " --dry_run",
        kProgram + " plan " + kSource + "/configs/quickstart.yaml",
        kProgram + " eval" + checkpoint}) {
    EXPECT_EQ(status_of(command + " 2>/dev/null >/dev/full"), 1) << command;
    EXPECT_EQ(status_of(command + " 2>/dev/null >/dev/null"), 0) << command;
  }
}

}  // namespace
}  // namespace gigagpt
