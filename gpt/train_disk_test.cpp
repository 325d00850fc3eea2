// Runs and the disk: what killed runs left, a second run in the same place, a disk that is full.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <map>

#include "gpt/testing.h"

namespace gigagpt {
namespace {

TEST_F(Training, WhatKilledRunsLeaveGoesWithTheNextStart) {
  const Path out = config_.out_dir;
  std::filesystem::create_directories(out / ".checkpoint_5.gigagpt-partial" / "x");
  File::create(out / ".scratch-1.store").write("x");
  File::create(out / ".lock").write("process 1 on host gone (training)\n");
  File::create(out / "model.store").write(std::string(100'000, '\0'));  // reserved, never completed
  config_.storage.store = (out / "model.store").string();
  std::vector<formats::StepMetrics> log;
  TrainEvents events = quiet(&log, 1);
  events.note = [&](const std::string&) {
    EXPECT_FALSE(std::filesystem::exists(out / ".checkpoint_5.gigagpt-partial"));
    EXPECT_FALSE(std::filesystem::exists(out / ".scratch-1.store"));
    if (log.empty()) {
      EXPECT_ERROR(train(config_, {}, quiet()), "is in use by process ");
    }
  };
  train(config_, {}, events);
  EXPECT_EQ(log.size(), 1U);
  EXPECT_FALSE(std::filesystem::exists(out / ".lock"));
}

// Files of this process cannot grow above `bytes` while it lives, as on a disk that is full.
struct FullDisk {
  explicit FullDisk(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limit{bytes, before.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    handler = ::signal(SIGXFSZ, SIG_IGN);
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &before);
    ::signal(SIGXFSZ, handler);
  }
  rlimit before = {};
  sighandler_t handler;
};

// At whichever file it happens: what was saved before stays as it was, and is where the run goes
// on.
TEST_F(Training, AFullDiskLeavesTheLastCheckpoint) {
  config_.out_dir = out("whole").string();
  train(config_, {}, quiet());
  const Path last = Path(config_.out_dir) / "checkpoint_8";
  const std::string whole = all_bytes(last);
  const rlim_t model_bytes = std::filesystem::file_size(last / "model.safetensors");
  config_.out_dir = out("full").string();
  config_.saves.checkpoint_path = "latest";
  config_.saves.checkpoint_steps = 2;
  train(config_, {}, quiet(nullptr, 2));
  const auto files = [&] {
    std::map<std::string, std::string> texts;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(config_.out_dir)) {
      const std::string name = entry.path().lexically_relative(config_.out_dir);
      if (name.starts_with("tensorboard/")) continue;  // a file for each start
      const bool counts = entry.is_regular_file() && name != "metrics.jsonl";
      texts[name] = counts ? read_text(entry.path()) : "";
    }
    return texts;
  };
  const auto before = files();
  for (const rlim_t bytes : {rlim_t{8192}, model_bytes - 1, model_bytes, 2 * model_bytes - 1}) {
    const FullDisk full(bytes);
    EXPECT_ERROR(train(config_, {}, quiet()), "File too large");
    EXPECT_TRUE(files() == before) << bytes;
  }
  train(config_, {}, quiet());
  EXPECT_TRUE(all_bytes(Path(config_.out_dir) / "checkpoint_8") == whole);
}

}  // namespace
}  // namespace gigagpt
