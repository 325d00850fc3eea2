#include "base/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "base/error.h"

namespace gigagpt {
namespace fs = std::filesystem;

File File::open_read(const Path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_errno("cannot open " + path.string());
  return File(fd, path);
}

File File::create(const Path& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) fail_errno("cannot create " + path.string());
  return File(fd, path);
}

File File::open_append(const Path& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0) fail_errno("cannot open " + path.string());
  return File(fd, path);
}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

void File::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_errno("cannot write " + path_.string());
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void File::read_at(uint64_t offset_bytes, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno("cannot read " + path_.string());
    if (got == 0) fail("{} ends at byte {}: it is truncated", path_.string(), offset_bytes);
    offset_bytes += static_cast<uint64_t>(got);
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
}

uint64_t File::size_bytes() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail_errno("cannot stat " + path_.string());
  return static_cast<uint64_t>(status.st_size);
}

void File::sync() {
  if (::fdatasync(fd_) != 0) fail_errno("cannot sync " + path_.string());
}

std::string read_text(const Path& path) {
  const File file = File::open_read(path);
  if (fs::is_directory(path)) fail("{} is a directory, not a file", path.string());
  std::string text(file.size_bytes(), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

Path temporary_path(const Path& path) {
  Path temporary = path;
  return temporary += ".tmp";
}

void write_text_atomically(const Path& path, std::string_view text) {
  const Path temporary = temporary_path(path);
  try {
    File file = File::create(temporary);
    file.write(text);
    file.sync();
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
      fail_errno("cannot rename " + temporary.string());
    }
  } catch (const Error&) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_parent_directory(path);
}

void sync_directory(const Path& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_errno("cannot open directory " + directory.string());
  const int result = ::fsync(fd);
  ::close(fd);
  if (result != 0) fail_errno("cannot sync directory " + directory.string());
}

void sync_parent_directory(const Path& path) {
  sync_directory(path.has_parent_path() ? path.parent_path() : Path("."));
}

namespace {
constexpr std::string_view kPartial = ".gigagpt-partial";
}

Path partial_path(const Path& directory) {
  return directory.parent_path() / fmt::format(".{}{}", directory.filename().string(), kPartial);
}

void remove_directory(const Path& directory) {
  std::error_code error;
  const Path partial = partial_path(directory);
  fs::remove_all(partial, error);
  fs::rename(directory, partial, error);
  if (!error) fs::remove_all(partial, error);
}

void remove_partial_directories(const Path& parent,
                                const std::function<bool(const std::string& name)>& ours) {
  std::error_code ignored;
  std::vector<Path> found;
  for (const auto& entry : fs::directory_iterator(parent, ignored)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with('.') || !name.ends_with(kPartial)) continue;
    const size_t size = name.size() - kPartial.size();
    if (size > 0 && ours(name.substr(1, size - 1))) found.push_back(entry.path());
  }
  for (const Path& path : found) fs::remove_all(path, ignored);
}

PendingDirectory::PendingDirectory(const Path& target) : target_(target.lexically_normal()) {
  if (!target_.has_filename()) target_ = target_.parent_path();  // "x/" is "x"
  temporary_ = partial_path(target_);
  std::error_code error;
  fs::remove_all(temporary_, error);
  fs::create_directories(temporary_, error);
  if (error) fail("cannot create {}: {}", temporary_.string(), error.message());
}

PendingDirectory::~PendingDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void PendingDirectory::commit() {
  for (const auto& entry : fs::directory_iterator(temporary_)) File::open_read(entry.path()).sync();
  sync_directory(temporary_);
  // An existing target swaps places with the new one in a single step; its old content goes then.
  const bool replaces = fs::exists(target_);
  const unsigned flags = replaces ? RENAME_EXCHANGE : 0;
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), flags) != 0) {
    fail_errno("cannot put in place " + target_.string());
  }
  committed_ = true;
  sync_parent_directory(target_);
  std::error_code ignored;
  if (replaces) fs::remove_all(temporary_, ignored);
}

}  // namespace gigagpt
