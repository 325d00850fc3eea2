#include "base/async_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace gigagpt {
namespace {

int open_direct(const Path& path, int flags) {
  int fd = ::open(path.c_str(), flags | O_DIRECT | O_CLOEXEC, 0666);
  // Some file systems, such as tmpfs, have no direct I/O.
  if (fd < 0 && errno == EINVAL) fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  return fd;
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
  const int creating = mode == Mode::kCreate ? O_CREAT | O_TRUNC : 0;
  fd_ = open_direct(path, O_RDWR | creating);
  if (fd_ < 0) fail_errno("cannot open " + path.string());
  engine_ = engine ? engine(fd_) : make_uring_engine(fd_);
  if (engine_ == nullptr) engine_ = make_threaded_engine(fd_);
}

AsyncFile::~AsyncFile() {
  while (!transfers_.empty()) {
    if (const auto result = engine_->wait()) transfers_.erase(result->id);
  }
  engine_.reset();
  ::close(fd_);
}

void AsyncFile::reserve(uint64_t size_bytes) {
  int error = ::posix_fallocate(fd_, 0, off_t(size_bytes));
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
  const bool fresh = transfers_.emplace(id, transfer).second;
  GIGAGPT_ASSERT(fresh);
  (transfer.write ? written_bytes_ : read_bytes_) += transfer.size_bytes();
  engine_->start(id, transfer);
}

void AsyncFile::start_sync(uint64_t id) {
  const bool fresh = transfers_.emplace(id, Transfer{.write = true}).second;
  GIGAGPT_ASSERT(fresh);
  engine_->start_sync(id);
}

std::optional<uint64_t> AsyncFile::wait() {
  for (;;) {
    const auto result = engine_->wait();
    if (!result) return std::nullopt;
    const auto place = transfers_.find(result->id);
    GIGAGPT_ASSERT(place != transfers_.end());
    Transfer& transfer = place->second;
    const bool again = result->bytes == -EINTR || result->bytes == -EAGAIN;
    if (result->bytes < 0 && !again) {
      const Transfer failed = transfer;
      transfers_.erase(place);
      errno = int(-result->bytes);
      fail_errno(fmt::format("cannot {} {} at byte {}", failed.write ? "write" : "read",
                             path_.string(), failed.offset_bytes));
    }
    const size_t done = again ? 0 : size_t(result->bytes);
    if (done >= transfer.size_bytes()) {
      transfers_.erase(place);
      return result->id;
    }
    if (done == 0 && !again) {
      const Transfer failed = transfer;
      transfers_.erase(place);
      fail("cannot {} {}: it ends at byte {}", failed.write ? "write" : "read", path_.string(),
           failed.offset_bytes);
    }
    transfer = rest_of(transfer, done);
    engine_->start(result->id, transfer);
  }
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
