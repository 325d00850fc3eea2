// Files: reads, maps, and writes that either happen or do not.
#include "base/file.h"

#include <gtest/gtest.h>

#include <set>

#include "base/testing.h"

namespace gigagpt {
namespace {

namespace fs = std::filesystem;

TEST(File, WritesReadsAndAppends) {
  const TemporaryDirectory directory;
  const Path path = directory / "x";
  File::create(path).write("abc");
  File::open_append(path).write("defg");
  const File file = File::open_read(path);
  EXPECT_EQ(file.size_bytes(), 7U);
  std::array<std::byte, 4> middle{};
  file.read_at(2, middle);
  EXPECT_EQ(text_of(middle), "cdef");
  EXPECT_EQ(read_text(path), "abcdefg");
  File::create(path).write("z");  // truncates
  EXPECT_EQ(read_text(path), "z");
}

TEST(File, MoveTransfersTheDescriptor) {
  const TemporaryDirectory directory;
  File first = File::create(directory / "first");
  File second = File::create(directory / "second");
  second = std::move(first);
  second.write("to first");
  EXPECT_EQ(second.path(), directory / "first");
  const File third = std::move(second);
  EXPECT_EQ(third.size_bytes(), 8U);
  EXPECT_EQ(read_text(directory / "second"), "");
}

TEST(File, ErrorsNameTheFileAndTheReason) {
  const TemporaryDirectory directory;
  const Path missing = directory / "no" / "file";
  EXPECT_ERROR(File::open_read(missing), "cannot open " + missing.string() + ": No such file");
  EXPECT_ERROR(File::create(missing), "cannot create " + missing.string() + ": No such file");
  EXPECT_ERROR(File::open_append(missing), "cannot open " + missing.string());
  EXPECT_ERROR(read_text(directory.path()), directory.path().string() + " is a directory");
  EXPECT_ERROR(sync_directory(missing), "cannot open directory " + missing.string());
  const Path short_file = directory.write("short", "abc");
  std::array<std::byte, 4> bytes{};
  EXPECT_ERROR(File::open_read(short_file).read_at(1, bytes),
               short_file.string() + " ends at byte 3");
  EXPECT_ERROR(File::open_read(short_file).write("x"), "cannot write " + short_file.string());
}

TEST(File, FullDiskIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP();
  EXPECT_ERROR(File::create("/dev/full").write("x"), "cannot write /dev/full: No space left");
}

TEST(WriteTextAtomically, ReplacesTheFileAndLeavesNothingElse) {
  const TemporaryDirectory directory;
  const Path path = directory.write("x", "old content");
  const File reader = File::open_read(path);
  write_text_atomically(path, "new");
  EXPECT_EQ(read_text(path), "new");
  EXPECT_EQ(names_in(directory.path()), std::set<std::string>{"x"});
  // Whoever had the old file open still sees all of it: it was replaced, not overwritten.
  std::array<std::byte, 11> bytes{};
  reader.read_at(0, bytes);
  EXPECT_EQ(text_of(bytes), "old content");
}

TEST(WriteTextAtomically, SurvivesALeftoverOfACrash) {
  const TemporaryDirectory directory;
  directory.write("x.tmp", "half written, and longer than the text");
  write_text_atomically(directory / "x", "text");
  EXPECT_EQ(read_text(directory / "x"), "text");
  EXPECT_EQ(names_in(directory.path()), std::set<std::string>{"x"});
}

TEST(WriteTextAtomically, KeepsTheOldFileWhenItFails) {
  const TemporaryDirectory directory;
  const Path path = directory.write("x", "old");
  fs::create_directory(directory / "x.tmp");  // in the way of the temporary file
  EXPECT_ERROR(write_text_atomically(path, "new"), path.string());
  EXPECT_EQ(read_text(path), "old");
  EXPECT_ERROR(write_text_atomically(directory / "no" / "x", "new"), (directory / "no").string());
}

TEST(PendingDirectory, IsInvisibleUntilCommit) {
  const TemporaryDirectory directory;
  const Path target = directory / "a" / "target";
  PendingDirectory pending(target);
  File::create(pending.path() / "file").write("content");
  EXPECT_FALSE(fs::exists(target));
  pending.commit();
  EXPECT_EQ(read_text(target / "file"), "content");
  EXPECT_EQ(names_in(target.parent_path()), std::set<std::string>{"target"});
}

TEST(PendingDirectory, LeavesNothingWithoutCommit) {
  const TemporaryDirectory directory;
  directory.write("target/old", "kept");
  {
    const PendingDirectory pending(directory / "target");
    File::create(pending.path() / "file").write("content");
  }
  EXPECT_EQ(names_in(directory.path()), std::set<std::string>{"target"});
  EXPECT_EQ(names_in(directory / "target"), std::set<std::string>{"old"});
}

TEST(PendingDirectory, CommitReplacesAnExistingDirectoryAsAWhole) {
  const TemporaryDirectory directory;
  directory.write("target/old", "goes");
  directory.write("target/both", "old");
  PendingDirectory pending(directory / "target");
  File::create(pending.path() / "both").write("new");
  pending.commit();
  EXPECT_EQ(names_in(directory.path()), std::set<std::string>{"target"});
  EXPECT_EQ(names_in(directory / "target"), std::set<std::string>{"both"});
  EXPECT_EQ(read_text(directory / "target" / "both"), "new");
}

TEST(PendingDirectory, StartsWithoutTheLeftoverOfACrash) {
  const TemporaryDirectory directory;
  directory.write(".target.gigagpt-partial/half", "torn");
  PendingDirectory pending(directory / "target");
  EXPECT_TRUE(fs::is_empty(pending.path()));
  pending.commit();
  EXPECT_EQ(names_in(directory.path()), std::set<std::string>{"target"});
}

TEST(PendingDirectory, LeavesOtherFilesBesideItAlone) {
  const TemporaryDirectory directory;
  directory.write("target.tmp/precious", "x");
  PendingDirectory pending(directory / "target/");
  pending.commit();
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"target", "target.tmp"}));
}

TEST(RemoveDirectory, TakesItAndLeftoversAway) {
  const TemporaryDirectory directory;
  directory.write("a/x", "1");
  directory.write(".b.gigagpt-partial/x", "1");
  directory.write(".gigagpt-partial/x", "1");
  directory.write("c/x", "1");
  remove_directory(directory / "a");
  const std::set<std::string> all = {".b.gigagpt-partial", ".gigagpt-partial", "c"};
  EXPECT_EQ(names_in(directory.path()), all);
  remove_partial_directories(directory.path(), [](const std::string& name) { return name == "c"; });
  EXPECT_EQ(names_in(directory.path()), all) << "of somebody else";
  remove_partial_directories(directory.path(), [](const std::string& name) { return name == "b"; });
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{".gigagpt-partial", "c"}));
  remove_directory(directory / "nothing");  // no error
}

TEST(PendingDirectory, ErrorNamesWhatIsInTheWay) {
  const TemporaryDirectory directory;
  const Path file = directory.write("file", "");
  EXPECT_ERROR(PendingDirectory(file / "target"), (file / ".target.gigagpt-partial").string());
}

}  // namespace
}  // namespace gigagpt
