// Locks of directories: one holder at a time, who it is, and nothing left behind.
#include "base/lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/testing.h"

namespace gigagpt {
namespace {

namespace fs = std::filesystem;

TEST(DirectoryLock, ASecondOneIsRefusedAndToldWho) {
  const TemporaryDirectory directory;
  const Path out = directory / "out";
  std::string host(256, '\0');
  ::gethostname(host.data(), host.size() - 1);
  host.resize(host.find('\0'));
  const std::string who = fmt::format("process {} on host {} (training)", ::getpid(), host);
  {
    const DirectoryLock lock(out, "out_dir", "training");
    EXPECT_EQ(DirectoryLock::holder(out), who);
    const std::string text = read_text(out / ".lock");
    EXPECT_ERROR(DirectoryLock(out, "out_dir", "other"),
                 fmt::format("out_dir: {} is in use by {}; stop it or choose another out_dir",
                             out.string(), who));
    EXPECT_ERROR(DirectoryLock(out / "", "out_dir", "other"), "is in use by");
    EXPECT_EQ(read_text(out / ".lock"), text);
    const DirectoryLock inner(out / "inner", "out_dir", "another");
  }
  EXPECT_EQ(DirectoryLock::holder(out), std::nullopt);
}

TEST(DirectoryLock, WhatItMadeGoesIfItStaysEmpty) {
  const TemporaryDirectory directory;
  { const DirectoryLock lock(directory / "a/b/c", "out_dir", "x"); }
  EXPECT_TRUE(fs::is_empty(directory.path()));
  {
    const DirectoryLock lock(directory / "a/b/c/", "out_dir", "x");
    directory.write("a/b/mine", "1");
  }
  EXPECT_FALSE(fs::exists(directory / "a/b/c"));
  EXPECT_TRUE(fs::exists(directory / "a/b/mine"));
  fs::create_directory(directory / "old");
  { const DirectoryLock lock(directory / "old", "out_dir", "x"); }
  EXPECT_TRUE(fs::is_empty(directory / "old")) << "was there before, and stays";
}

// However it ends, the system opens its lock; what it wrote is of no account then.
TEST(DirectoryLock, AKilledProcessHoldsNothing) {
  const TemporaryDirectory directory;
  const Path out = directory / "out";
  const pid_t child = ::fork();
  if (child == 0) {
    const DirectoryLock lock(out, "out_dir", "training");
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_NE(read_text(out / ".lock").find(fmt::format("process {} on", child)), std::string::npos);
  EXPECT_EQ(DirectoryLock::holder(out), std::nullopt);
  const DirectoryLock lock(out, "out_dir", "training");
  EXPECT_NE(DirectoryLock::holder(out)->find(fmt::format("process {} on", ::getpid())),
            std::string::npos);
}

TEST(DirectoryLock, LeavesFilesOfOthersAlone) {
  const TemporaryDirectory directory;
  const Path file = directory.write(".lock", "precious");
  EXPECT_ERROR(DirectoryLock(directory.path(), "out_dir", "x"),
               file.string() + " is not a file of this program; choose another out_dir");
  EXPECT_EQ(read_text(file), "precious");
  fs::remove(file);
  fs::create_symlink(directory.write("precious", "x"), file);
  EXPECT_ERROR(DirectoryLock(directory.path(), "out_dir", "x"), "cannot create " + file.string());
  EXPECT_EQ(read_text(directory / "precious"), "x");
}

TEST(DirectoryLock, ErrorsNameThePath) {
  const TemporaryDirectory directory;
  const Path file = directory.write("file", "");
  EXPECT_ERROR(DirectoryLock(file, "out_dir", "x"), "cannot create " + (file / ".lock").string());
  EXPECT_ERROR(DirectoryLock(file / "a/b", "out_dir", "x"),
               "cannot create " + (file / "a").string());
  EXPECT_EQ(DirectoryLock::holder(directory / "no"), std::nullopt);
}

TEST(DirectoryLock, OddContentIsShownHarmlessly) {
  const TemporaryDirectory directory;
  const Path file = directory.write(".lock", "process \x1B[2J" + std::string(1000, 'x') + "\nmore");
  const int fd = ::open(file.c_str(), O_RDWR);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  const std::string who = DirectoryLock::holder(directory.path()).value();
  EXPECT_TRUE(who.starts_with("process ?[2Jxxx")) << who;
  EXPECT_LE(who.size(), 300U);
  File::create(file);
  EXPECT_EQ(DirectoryLock::holder(directory.path()), "another process");
  ::close(fd);
}

TEST(RemoveIfUnlocked, TakesOnlyFilesThatNobodyLocks) {
  const TemporaryDirectory directory;
  const Path file = directory.write("file", "x");
  const int fd = ::open(file.c_str(), O_RDWR);
  ASSERT_EQ(::flock(fd, LOCK_SH), 0);
  remove_if_unlocked(file);
  EXPECT_TRUE(fs::exists(file));
  ::close(fd);
  fs::create_symlink(file, directory / "link");
  remove_if_unlocked(directory / "link");
  EXPECT_TRUE(fs::exists(file));
  remove_if_unlocked(file);
  EXPECT_FALSE(fs::exists(file));
  fs::create_directory(file);
  remove_if_unlocked(file);
  remove_if_unlocked(directory / "nothing");  // no error
  EXPECT_TRUE(fs::exists(file));
}

}  // namespace
}  // namespace gigagpt
