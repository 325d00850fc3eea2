// Files: reads, and writes that either happen or do not. Nothing is mapped, as a map of a file that
// is shortened meanwhile would kill the program.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace gigagpt {

using Path = std::filesystem::path;

// What streaming from and to a file, and between systems, took. A stall is time that compute waited
// for the disk or the network.
struct IoCounts {
  uint64_t read_bytes = 0, write_bytes = 0;
  uint64_t sent_bytes = 0;
  double stall_ms = 0;
};

// An open file descriptor, closed on destruction. Every call throws Error naming the file.
class File {
 public:
  static File open_read(const Path& path);
  static File create(const Path& path);  // truncates
  static File open_append(const Path& path);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  void write(std::span<const std::byte> bytes);  // appends all of them
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  void read_at(uint64_t offset_bytes, std::span<std::byte> bytes) const;  // exactly that many
  uint64_t size_bytes() const;
  void sync();  // fdatasync: on the disk when it returns
  const Path& path() const { return path_; }

 private:
  File(int fd, Path path) : fd_(fd), path_(std::move(path)) {}
  int fd_ = -1;
  Path path_;
};

std::string read_text(const Path& path);

// Replaces `path` as a whole: temporary file beside it, sync, rename, sync of the directory.
void write_text_atomically(const Path& path, std::string_view text);
Path temporary_path(const Path& path);  // the name of that temporary file

// Makes what happened to the entries of `directory` durable (its files' content is not its own).
void sync_directory(const Path& directory);
// The same for the directory that `path` lies in.
void sync_parent_directory(const Path& path);

// Where a directory is while it is made or taken away: .<name>.gigagpt-partial beside it.
Path partial_path(const Path& directory);

// Takes a directory away so that it is never seen half empty. Errors leave it, or its partial path.
void remove_directory(const Path& directory);

// Removes what killed processes left inside `parent` of partial directories whose name `ours`
// knows.
void remove_partial_directories(const Path& parent,
                                const std::function<bool(const std::string& name)>& ours);

// A directory that appears under its name complete or not at all: fill `path()`, then commit().
// Without commit what was made is removed.
class PendingDirectory {
 public:
  explicit PendingDirectory(const Path& target);  // makes partial_path(target), removing an old one
  ~PendingDirectory();
  PendingDirectory(const PendingDirectory&) = delete;
  PendingDirectory& operator=(const PendingDirectory&) = delete;

  const Path& path() const { return temporary_; }
  void commit();  // syncs every file, renames to the target (which is replaced), syncs the parent

 private:
  Path target_;
  Path temporary_;
  bool committed_ = false;
};

}  // namespace gigagpt
