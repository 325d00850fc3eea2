// For tests only: runs of a model that makes a step in milliseconds.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "base/testing.h"
#include "cli/programs_testing.h"
#include "engine/run/run_directory.h"

namespace gigagpt {

namespace fs = std::filesystem;

class Surroundings : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryDirectory>();
    ::setenv("XDG_CACHE_HOME", folder_->path().c_str(), 1);
    std::string text;
    for (size_t i = 0; i < 20000; ++i) text += i % 7 == 6 ? ' ' : char('a' + i * i % 23);
    const Path file = folder_->write("text.txt", text);
    ASSERT_EQ(shell(kProgram + " prepare --tokenizer char --val_fraction 0.3 --input " +
                    file.string() + " --out " + path("data"))
                  .status,
              0);
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
inline std::unique_ptr<TemporaryDirectory> Surroundings::folder_;

}  // namespace gigagpt
