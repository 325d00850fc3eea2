#include "base/async_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/lock.h"

namespace gigagpt {
namespace {

int open_direct(const Path& path, int flags) {
  int fd = ::open(path.c_str(), flags | O_DIRECT | O_CLOEXEC, 0666);
  // Some file systems, such as tmpfs, have no direct I/O.
  if (fd < 0 && errno == EINVAL) fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  return fd;
}

// False if another process has it. A killed one keeps it until the kernel has ended its transfers,
// which is after its parent sees it end.
bool lock(int fd, int kind) {
  constexpr int kTries = 200;
  for (int i = 0; i < kTries; ++i) {
    if (try_lock(fd, kind)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// What is left of a transfer after its first `bytes`. Direct I/O goes on from a whole block.
Transfer rest_of(Transfer transfer, size_t bytes) {
  bytes -= bytes % kBlockBytes;
  transfer.offset_bytes += bytes;
  for (auto& piece : transfer.memory) {
    const size_t done = std::min(bytes, piece.size());
    piece = piece.subspan(done);
    bytes -= done;
  }
  if (transfer.memory[0].empty()) std::swap(transfer.memory[0], transfer.memory[1]);
  return transfer;
}

}  // namespace

AsyncFile::AsyncFile(const Path& path, Mode mode, const EngineMaker& engine) : path_(path) {
  const bool reads = mode == Mode::kRead;
  fd_ = open_direct(path, reads ? O_RDONLY : O_RDWR | (mode == Mode::kCreate ? O_CREAT : 0));
  if (fd_ < 0) fail_errno("cannot open " + path.string());
  try {
    if (!lock(fd_, reads ? LOCK_SH : LOCK_EX)) {
      fail("{} is in use by another process", path.string());
    }
    if (mode == Mode::kCreate && ::ftruncate(fd_, 0) != 0) {
      fail_errno("cannot truncate " + path.string());
    }
    engine_ = engine ? engine(fd_) : make_uring_engine(fd_);
    if (engine_ == nullptr) engine_ = make_threaded_engine(fd_);
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

AsyncFile::~AsyncFile() {
  while (!transfers_.empty()) {
    if (const auto result = engine_->wait()) transfers_.erase(result->id);
  }
  engine_.reset();
  ::close(fd_);
}

void AsyncFile::reserve(uint64_t size_bytes) {
  int error = EINTR;  // a file system in RAM lets a signal end it
  while (error == EINTR) error = ::posix_fallocate(fd_, 0, off_t(size_bytes));
  if (error == EOPNOTSUPP || error == EINVAL) {
    error = ::ftruncate(fd_, off_t(size_bytes)) == 0 ? 0 : errno;
  }
  if (error == 0) return;
  errno = error;
  fail_errno(
      fmt::format("cannot reserve {:.1f} GB for {}", double(size_bytes) / 1e9, path_.string()));
}

uint64_t AsyncFile::size_bytes() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail_errno("cannot stat " + path_.string());
  return uint64_t(status.st_size);
}

void AsyncFile::start(uint64_t id, const Transfer& transfer) {
  (transfer.write ? written_bytes_ : read_bytes_) += transfer.size_bytes();
  begin(id, {transfer});
}

void AsyncFile::start_sync(uint64_t id) {
  begin(id, {.left = {.write = true}, .sync = true});
}

void AsyncFile::begin(uint64_t id, const UnderWay& what) {
  const bool fresh = transfers_.emplace(id, what).second;
  GIGAGPT_ASSERT(fresh);
  try {
    if (what.sync)
      engine_->start_sync(id);
    else
      engine_->start(id, what.left);
  } catch (const Error&) {
    transfers_.erase(id);
    throw;
  }
}

std::optional<uint64_t> AsyncFile::wait() {
  constexpr int kVainTries = 100;
  for (;;) {
    const auto result = engine_->wait();
    if (!result) return std::nullopt;
    const auto place = transfers_.find(result->id);
    GIGAGPT_ASSERT(place != transfers_.end());
    UnderWay what = place->second;
    const bool again = result->bytes == -EINTR || result->bytes == -EAGAIN;
    if (result->bytes < 0 && !again) fail_transfer(result->id, result->bytes);
    const size_t done = again ? 0 : size_t(result->bytes);
    if (!again && (what.sync || done >= what.left.size_bytes())) {
      transfers_.erase(place);
      return result->id;
    }
    // A read of less than a block that is no interruption has met the end of the file.
    const bool vain = done < kBlockBytes;
    what.vain_tries = vain ? what.vain_tries + 1 : 0;
    const bool at_end = !again && vain && (done == 0 || !what.left.write);
    if (at_end || what.vain_tries > kVainTries) fail_transfer(result->id, 0);
    what.left = rest_of(what.left, done);
    transfers_.erase(place);
    begin(result->id, what);
  }
}

// `result` is -errno, or 0 for the end of the file.
void AsyncFile::fail_transfer(uint64_t id, int64_t result) {
  const UnderWay failed = transfers_.at(id);
  transfers_.erase(id);
  const std::string what =
      failed.sync ? fmt::format("cannot sync {}", path_.string())
                  : fmt::format("cannot {} {} at byte {}", failed.left.write ? "write" : "read",
                                path_.string(), failed.left.offset_bytes);
  if (result == 0) fail("{}: it ends at byte {}", what, size_bytes());
  errno = int(-result);
  fail_errno(what);
}

void AsyncFile::run(const Transfer& transfer) {
  GIGAGPT_ASSERT(transfers_.empty());
  start(0, transfer);
  while (!wait()) {
  }
}

void AsyncFile::sync() {
  GIGAGPT_ASSERT(transfers_.empty());
  start_sync(0);
  while (!wait()) {
  }
}

PageBuffer::PageBuffer(size_t size_bytes)
    : size_bytes_((size_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes) {
  if (size_bytes_ == 0) return;
  void* memory =
      ::mmap(nullptr, size_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    fail_errno(fmt::format("cannot get {:.2f} GB of memory", double(size_bytes_) / 1e9));
  }
  ::madvise(memory, size_bytes_, MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(memory);
}

PageBuffer::PageBuffer(PageBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

PageBuffer& PageBuffer::operator=(PageBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

PageBuffer::~PageBuffer() {
  if (data_ != nullptr) ::munmap(data_, size_bytes_);
}

}  // namespace gigagpt
