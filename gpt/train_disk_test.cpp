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

// A decay that is started from a checkpoint: to the bits of a run in RAM, whose checkpoints have
// the moments; the run that it leaves goes on as if nothing had been.
TEST_F(Training, ForksTheFileOfARunForADecay) {
  config_.optim.lr_decay = "wsd";
  config_.optim.decay_steps = 2;
  config_.saves.checkpoint_steps = 2;
  config_.num_steps = 20;
  const auto decayed = [&](const Path& from, const std::string& name, const std::string& store) {
    GPTConfig config = config_;
    config.saves.checkpoint_path = from.string();
    config.out_dir = out(name).string();
    config.storage.store = store;
    config.optim.decay_from = config.optim.decay_steps = 3;
    *config.optim.decay_from = formats::read_trainer_state(from).step;
    config.num_steps = config.optim.run_length(config.num_steps);
    std::string notes;
    TrainEvents events = quiet();
    events.planned = [&](const auto&, const std::string& origin) { notes = origin; };
    train(config, {}, events);
    const int64_t last = config.num_steps;
    return std::pair(
        read_text(Path(config.out_dir) / fmt::format("checkpoint_{}", last) / "model.safetensors"),
        notes);
  };
  config_.out_dir = out("ram").string();
  config_.storage.store = "memory";
  train(config_, {}, quiet(nullptr, 4));
  const auto [expected, _] = decayed(out("ram") / "checkpoint_4", "ram_decay", "memory");
  const auto [earlier, __] = decayed(out("ram") / "checkpoint_2", "ram_early", "memory");

  config_.out_dir = out("file").string();
  config_.storage.store = (out("file") / "model.store").string();
  train(config_, {}, quiet(nullptr, 4));
  const std::string before = read_text(config_.storage.store);
  for (const std::string& store :
       {std::string("memory"), (out("file_decay") / "model.store").string()}) {
    const auto [actual, notes] = decayed(out("file") / "checkpoint_4/", "file_decay", store);
    EXPECT_TRUE(actual == expected);
    EXPECT_NE(notes.find("with the moments in " + config_.storage.store), std::string::npos);
    std::filesystem::remove_all(out("file_decay"));
  }
  EXPECT_TRUE(read_text(config_.storage.store) == before);
  {  // In use by another, it cannot be read: the weights are what there is.
    const AsyncFile user(config_.storage.store, AsyncFile::Mode::kRead);
    EXPECT_FALSE(decayed(out("file") / "checkpoint_4", "file_used", "memory").first == expected);
  }
  // The file is at step 4: what it had at step 2 is gone.
  const auto [lost, notes] = decayed(out("file") / "checkpoint_2", "file_early", "memory");
  EXPECT_FALSE(lost == earlier);
  EXPECT_NE(notes.find("start from zero"), std::string::npos) << notes;

  config_.out_dir = out("kept").string();
  config_.storage.store = (out("kept") / "model.store").string();
  config_.saves.checkpoint_moments = true;
  train(config_, {}, quiet(nullptr, 4));
  EXPECT_TRUE(decayed(out("kept") / "checkpoint_2", "kept_decay", "memory").first == earlier);
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
