// Directories that one process at a time works in.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace gigagpt {

// Holds a directory for this process, by a lock on the file .lock in it, which says whose it is.
// The system lets go of it however the process ends.
class DirectoryLock {
 public:
  // Makes the directory if it is not there. `key` is what a user chose it with, `use` what for.
  // Throws Error, with nothing changed, if another process (or object) holds it.
  DirectoryLock(const Path& directory, std::string_view key, std::string_view use);
  ~DirectoryLock();  // takes the file away, and directories it made that are still empty
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

  // Who holds it, "process 12 on host h (training)"; nothing if nobody does.
  static std::optional<std::string> holder(const Path& directory);

 private:
  DirectoryLock() = default;
  Path path_;
  int fd_ = -1;
  std::vector<Path> made_;  // the innermost first
};

// flock without waiting; `kind` is LOCK_EX or LOCK_SH. False if another process has it: where the
// file system has no locks, nobody is taken to hold any.
bool try_lock(int fd, int kind);

// Removes a file unless a process has it open and locked. Errors leave it.
void remove_if_unlocked(const Path& file);

}  // namespace gigagpt
