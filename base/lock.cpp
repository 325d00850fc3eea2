#include "base/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "base/system.h"

namespace gigagpt {
namespace {
namespace fs = std::filesystem;

constexpr const char* kName = ".lock";
constexpr std::string_view kBegin = "process ";
constexpr int kTries = 10;
constexpr std::chrono::milliseconds kPause{20};

// Whether the path still names the open file: who holds a lock takes the file away in the end.
bool is_at(int fd, const Path& path) {
  struct stat ours {};
  struct stat there {};
  return ::fstat(fd, &ours) == 0 && ::lstat(path.c_str(), &there) == 0 &&
         ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

std::string content_of(int fd) {
  std::array<char, 300> text;
  const ssize_t got = ::pread(fd, text.data(), text.size(), 0);
  return {text.data(), size_t(std::max<ssize_t>(got, 0))};
}

std::string printable_line(std::string text) {
  text.resize(std::min(text.find('\n'), text.size()));
  for (char& c : text) {
    if (std::iscntrl(static_cast<unsigned char>(c)) != 0) c = '?';
  }
  return text.empty() ? "another process" : text;
}

std::string this_process(std::string_view use) {
  return fmt::format("{}{} on host {} ({})\n", kBegin, ::getpid(), host_name(), use);
}

// Makes the directory and those it lies in; adds what was not there, the innermost first.
void make_directory(const Path& directory, std::vector<Path>& made) {
  std::error_code error;
  std::vector<Path> missing;
  for (Path at = directory; !at.empty() && !fs::exists(at, error); at = at.parent_path()) {
    missing.push_back(at);
    if (at == at.parent_path()) break;
  }
  for (size_t i = missing.size(); i-- > 0;) {
    if (fs::create_directory(missing[i], error)) made.insert(made.begin(), missing[i]);
    if (error) fail("cannot create {}: {}", missing[i].string(), error.message());
  }
}

}  // namespace

bool try_lock(int fd, int kind) {
  return ::flock(fd, kind | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

// What is thrown after the delegate is done still runs the destructor.
DirectoryLock::DirectoryLock(const Path& given, std::string_view key, std::string_view use)
    : DirectoryLock() {
  const Path directory = given.has_filename() ? given : given.parent_path();  // "x/" is "x"
  path_ = directory / kName;
  for (int tries = 1; fd_ < 0; ++tries) {
    make_directory(directory, made_);
    const int fd = ::open(path_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0 && errno == ENOENT && tries < kTries) continue;  // gone with who made it
    if (fd < 0) fail_errno("cannot create " + path_.string());
    if (try_lock(fd, LOCK_EX) && is_at(fd, path_)) {
      fd_ = fd;
      break;
    }
    const std::string owner = printable_line(content_of(fd));
    ::close(fd);
    // Others may have it for a moment, to look at it as holder() does or to take it away.
    if (tries >= kTries) {
      fail("{0}: {1} is in use by {2}; stop it or choose another {0}", key, directory.string(),
           owner);
    }
    std::this_thread::sleep_for(kPause);
  }
  const std::string old = content_of(fd_);
  if (!old.empty() && !old.starts_with(kBegin)) {
    ::close(std::exchange(fd_, -1));
    fail("{0}: {1} is not a file of this program; choose another {0}", key, path_.string());
  }
  const std::string text = this_process(use);
  if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, text.data(), text.size(), 0) < 0) {
    fail_errno("cannot write " + path_.string());
  }
}

DirectoryLock::~DirectoryLock() {
  if (fd_ >= 0) {
    if (is_at(fd_, path_)) ::unlink(path_.c_str());
    ::close(fd_);
  }
  for (const Path& directory : made_) {
    if (::rmdir(directory.c_str()) != 0) break;
  }
}

std::optional<std::string> DirectoryLock::holder(const Path& directory) {
  const int fd =
      ::open((directory / kName).c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  std::optional<std::string> holder;
  if (!try_lock(fd, LOCK_SH)) holder = printable_line(content_of(fd));
  ::close(fd);
  return holder;
}

void remove_if_unlocked(const Path& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return;
  struct stat status {};
  const bool is_file = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  if (is_file && try_lock(fd, LOCK_EX)) ::unlink(file.c_str());
  ::close(fd);
}

}  // namespace gigagpt
