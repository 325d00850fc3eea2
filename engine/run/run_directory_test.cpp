// What a start makes of an out_dir: one run at a time, and what killed runs left is gone.
#include "engine/run/run_directory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <set>

#include "base/testing.h"
#include "engine/run/checkpoint.h"

namespace gigagpt::engine {
namespace {

namespace fs = std::filesystem;

CheckpointRules rules(const Path& out_dir) {
  return {out_dir, "auto", {}, {.batch_size = 6, .sequence_length = 12}};
}

TEST(RunDirectory, CheckpointsHaveOneName) {
  const TemporaryDirectory directory;
  for (const char* name :
       {"checkpoint_12", "checkpoint_3", "checkpoint_0", "checkpoint_", "x", "checkpoint_-1",
        "checkpoint_07", "checkpoint_5x", "xcheckpoint_6", "checkpoint_99999999999999999999"}) {
    fs::create_directory(directory / name);
  }
  EXPECT_EQ(checkpoint_steps(directory.path()), (std::vector<int64_t>{0, 3, 12}));
  EXPECT_EQ(checkpoint_directory(directory.path(), 12), directory / "checkpoint_12");
  EXPECT_TRUE(checkpoint_steps(directory / "no").empty());
}

TEST(RunDirectory, LeftoversGoAndNothingElse) {
  const TemporaryDirectory directory;
  for (const char* ours : {".checkpoint_5.gigagpt-partial/model.safetensors", ".scratch-77.store",
                           "checkpoint_4/.scratch-1.store", "metrics.jsonl.tmp"}) {
    directory.write(ours, "left");
  }
  const std::set<std::string> others = {".data.gigagpt-partial",
                                        ".checkpoint_x.gigagpt-partial",
                                        ".checkpoint_6.partial",
                                        ".scratch-.store",
                                        ".scratch-7x.store",
                                        "scratch-77.store",
                                        ".scratch-78.store.txt",
                                        "metrics.jsonl",
                                        "notes.tmp",
                                        "model.store",
                                        "checkpoint_4"};
  for (const std::string& name : others) {
    if (name != "checkpoint_4") directory.write(name, "mine");
  }
  directory.write("checkpoint_4/config.json", "{}");
  const Path used = directory.write(".scratch-79.store", "of a process that samples");
  const int fd = ::open(used.c_str(), O_RDWR);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  remove_leftovers(directory.path());
  auto expected = others;
  expected.insert(".scratch-79.store");
  EXPECT_EQ(names_in(directory.path()), expected);
  EXPECT_EQ(names_in(directory / "checkpoint_4"), std::set<std::string>{"config.json"});
  ::close(fd);
  remove_leftovers(directory.path());
  EXPECT_EQ(names_in(directory.path()), others);
  remove_leftovers(directory / "no");  // no error
}

TEST(Checkpoints, OneRunAtATimeHasAnOutDir) {
  const TemporaryDirectory directory;
  const Path out = directory / "out";
  {
    const Checkpoints first(rules(out));
    directory.write("out/.checkpoint_5.gigagpt-partial/x", "of the first");
    EXPECT_ERROR(Checkpoints(rules(out)), "out_dir: " + out.string() + " is in use by process " +
                                              std::to_string(::getpid()));
    EXPECT_TRUE(fs::exists(out / ".checkpoint_5.gigagpt-partial")) << "refused, touches nothing";
  }
  const Checkpoints next(rules(out));
  EXPECT_EQ(names_in(out), std::set<std::string>{".lock"});
}

TEST(Checkpoints, ARefusedRunLeavesNoDirectory) {
  const TemporaryDirectory directory;
  CheckpointRules wrong = rules(directory / "a" / "out");
  wrong.from = (directory / "nowhere").string();
  EXPECT_ERROR(Checkpoints(std::move(wrong)), "nowhere");
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

}  // namespace
}  // namespace gigagpt::engine
